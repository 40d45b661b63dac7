// The graph that each rank runs, from the graph of the global batch. Every rank has an equal share of the samples and
// of the experts' slots; the rank is an input, so that all ranks have the same graph (docs/architecture/ranks.md). In:
// a whole graph, with gradients and updates. Out: inputs that carry the axis `batch` and states that carry the axis
// `expert` have a rank's share; all outputs are those of the global batch.
//
// Each node runs in one of these ways. On a rank's share, where each sample or expert is computed by itself. As a sum
// in parts: the rank's parts, then `joinRanks`. On rows of experts, which ranks exchange (expert-rows.ts). In any other
// case on the whole, which `gatherRanks` gives: always right, and as much work as on one process.
import { ShapeError } from '../../base/errors.ts';
import { boundOf, elements } from '../../base/shape.ts';
import { GraphBuilder, type OpTable } from '../../graph/builder.ts';
import type { Attrs, Graph, Node } from '../../graph/graph.ts';
import type { OpName } from '../../graph/op-attrs.ts';
import { addOps } from '../../graph/ops/index.ts';
import { rankOps } from '../../graph/ops/ranks/index.ts';
import { add } from '../../graph/ops/elementwise/add.ts';
import { cast } from '../../graph/ops/elementwise/cast.ts';
import { mul } from '../../graph/ops/elementwise/mul.ts';
import { SUM_CHUNK } from '../../graph/ops/moe/sumChunks.ts';
import { gatherRanks } from '../../graph/ops/ranks/gatherRanks.ts';
import { joinRanks } from '../../graph/ops/ranks/joinRanks.ts';
import { scatterAddParts } from '../../graph/ops/shape/scatterAddParts.ts';
import { emit1, type Tensor } from '../../graph/tensor.ts';
import { samplesOf, type Samples } from '../samples.ts';
import { ExpertRows } from './expert-rows.ts';
import { Forms } from './forms.ts';
import { verifyRanks } from './verify.ts';

/** ranks: a power of two that divides the parts of sums (base/parts.ts). */
export function overRanks(graph: Graph, ops: OpTable, ranks: number): Graph {
  addOps(rankOps);
  return ranks === 1 ? graph : verifyRanks(new OverRanks(graph, ops, ranks).run(), ops);
}

class OverRanks {
  readonly #graph: Graph;
  readonly #ops: OpTable;
  readonly #ranks: number;
  readonly #builder: GraphBuilder;
  readonly #forms: Forms;
  readonly #experts: ExpertRows;

  constructor(graph: Graph, ops: OpTable, ranks: number) {
    this.#graph = graph;
    this.#ops = ops;
    this.#ranks = ranks;
    this.#builder = new GraphBuilder(ops);
    this.#forms = new Forms(graph, this.#builder, ranks);
    this.#experts = new ExpertRows(graph, this.#builder, this.#forms, ranks);
  }

  run(): Graph {
    const { inputs, nodes, outputs, updates } = this.#graph,
      builder = this.#builder,
      forms = this.#forms;
    for (const input of inputs) forms.input(input);
    for (const node of nodes) {
      builder.scope = node.scope;
      builder.recompute = node.recompute;
      builder.notBefore = node.notBefore;
      this.#visit(node);
    }
    builder.recompute = builder.notBefore = undefined;
    for (const { name, value } of outputs) builder.output(name, forms.whole(value));
    for (const { state, value, unless } of updates)
      builder.update(
        forms.stored(state),
        forms.isDivided(state) ? forms.ofExperts(value) : forms.whole(value),
        unless === null ? null : forms.whole(unless),
      );
    return builder.build();
  }

  #visit(node: Node): void {
    const { inputs } = node,
      axis = this.#forms.axisOf(inputs);
    if (this.#experts.visit(node) || (axis === 'expert' && this.#roundsBank(node))) return;
    const divided = axis === 'batch' && (this.#inParts(node) || this.#inChunks(node));
    if (axis === null || !(divided || this.#onShare(node, axis)))
      this.#forms.setWhole(
        node.outputs,
        this.#emit(
          node,
          inputs.map((v) => this.#forms.whole(v)),
        ),
      );
  }

  /** Rounds the experts of a rank at random, with the numbers that their elements have in the whole bank. */
  #roundsBank({ op, inputs: [x, seed, step], outputs: [out], attrs }: Node): boolean {
    if (op !== 'roundStochastic') return false;
    const forms = this.#forms,
      own = [forms.ofExperts(x), forms.whole(seed), forms.whole(step)],
      slots = forms.ownSlots(boundOf(this.#graph.types[x].shape[0]));
    forms.setShare(out, 'expert', this.#builder.emit(op, [...own, slots], attrs)[0], { dim: 0, each: 1 });
    return true;
  }

  #emit({ op, attrs }: Pick<Node, 'op' | 'attrs'>, inputs: readonly Tensor[]): Tensor[] {
    return this.#builder.emit(op, inputs, attrs);
  }

  /** Runs a node on the rank's share, if every result keeps the samples (or experts) of the inputs apart. */
  #onShare(node: Node, axis: 'batch' | 'expert'): boolean {
    const forms = this.#forms,
      found = forms.divisions(axis),
      own = node.outputs.map((out) => samplesOf(node, out, found, this.#graph.types, this.#ops));
    if (!own.every((s): s is Samples => s !== null)) return false;
    if (axis === 'expert' && !own.every(({ dim, each }) => dim === 0 && each === 1)) return false;
    if (!this.#hasShares(node, axis)) return false;
    const [to] = own;
    if (isRandom(node.op) && (axis === 'expert' || to.dim !== 0)) return false;
    try {
      const inputs = node.inputs.map((v, i) => forms.share(v, axis, this.#alongside(node, i, to)));
      const outputs = this.#emit(
        { op: node.op, attrs: this.#ownSizes(node, to) },
        isRandom(node.op) ? this.#numbered(inputs) : inputs,
      );
      node.outputs.forEach((out, i) => {
        forms.setShare(out, axis, outputs[i], own[i]);
      });
      return true;
    } catch (error) {
      // An operand has another form than the rules above expect: the node runs on the whole.
      if (error instanceof ShapeError) return false;
      throw error;
    }
  }

  /** Whether a rank has its share of each input whose rows belong to samples as those of the results do. */
  #hasShares({ op, inputs }: Node, axis: 'batch' | 'expert'): boolean {
    const { keepsRows = false, unread = [] } = this.#ops.get(op) ?? {},
      found = this.#forms.divisions(axis);
    return (
      !keepsRows ||
      inputs.every(
        (v, i) =>
          found[v] !== null ||
          this.#graph.types[v].shape.length === 0 ||
          unread.includes(i) ||
          TABLES[op as OpName]?.includes(i),
      )
    );
  }

  /**
   * The dimension of an input without samples that lies along the samples of the result; null: there is none, so that
   * each rank reads all of the input.
   */
  #alongside(node: Node, i: number, to: Samples): number | null {
    const { types } = this.#graph,
      { shape } = types[node.inputs[i]],
      result = types[node.outputs[0]].shape,
      fits = (dim: number): number | null =>
        dim >= 0 && dim < shape.length && boundOf(shape[dim]) === boundOf(result[to.dim]) && boundOf(shape[dim]) > 1
          ? dim
          : null;
    if (this.#ops.get(node.op)?.elementwise) return fits(to.dim - result.length + shape.length);
    switch (node.op) {
      case 'concat':
        return fits(to.dim);
      case 'expand': {
        const axes = node.attrs['axes'] as readonly number[];
        if (i === 1) return fits(to.dim);
        return axes.includes(to.dim) ? null : fits(to.dim - axes.filter((a) => a < to.dim).length);
      }
      case 'matmul':
        return to.dim < result.length - 2 ? fits(to.dim - result.length + shape.length) : null;
      default:
        return null;
    }
  }

  /** The attributes of a node for a rank's share. */
  #ownSizes({ op, attrs }: Node, { dim }: Samples): Attrs {
    if (op !== 'reshape') return attrs;
    return { shape: (attrs['shape'] as readonly number[]).map((d, i) => (i === dim ? d / this.#ranks : d)) };
  }

  /** The inputs of random numbers, which are counted through the global batch. */
  #numbered([like, seed, step, first]: readonly Tensor[]): Tensor[] {
    const own = mul(cast(this.#forms.rank(), 'uint32'), elements(like.shape));
    return [like, seed, step, first ? add(first, own) : own];
  }

  /**
   * Runs a long sum to one number, which is defined as the sum of its chunks (passes/split-sums.ts): ranks gather the
   * sums of their chunks, not the elements.
   */
  #inChunks({ op, inputs: [x], outputs, attrs }: Node): boolean {
    const samples = op === 'sum' && attrs['parts'] === undefined ? this.#forms.divisions('batch')[x] : null,
      { shape, dtype } = this.#graph.types[x],
      whole = elements(shape),
      fits = samples?.dim === 0 && whole > 2 * SUM_CHUNK && whole % (this.#ranks * SUM_CHUNK) === 0;
    if (!fits || (attrs['axes'] as readonly number[]).length !== shape.length || dtype === 'int32') return false;
    const own = emit1('sumChunks', [this.#forms.share(x, 'batch', 0)]),
      all = gatherRanks(own, { ranks: this.#ranks, axis: 'batch' });
    this.#forms.setWhole(outputs, [emit1('sum', [all], { axes: [0], serial: true })]);
    return true;
  }

  /** Runs a sum in parts: the rank's parts, then those of all ranks. */
  #inParts(node: Node): boolean {
    const { op, inputs, attrs } = node,
      parts = attrs['parts'];
    if (typeof parts !== 'number' || parts % this.#ranks !== 0) return false;
    const { parts: _, sample, ...rest } = attrs,
      how = { parts: parts / this.#ranks, sample: Number(sample) },
      cut = how.parts > 1 ? { ...rest, ...how } : rest,
      share = (i: number, dim: number): Tensor => this.#forms.share(inputs[i], 'batch', dim);
    const sum = (): Tensor => {
      switch (op) {
        case 'matmul': {
          const [a, b] = inputs.map((v) => this.#graph.types[v].shape.length);
          const x = share(0, attrs['transA'] === true ? a - 2 : a - 1),
            y = share(1, attrs['transB'] === true ? b - 1 : b - 2);
          return this.#builder.emit(op, [x, y], cut)[0];
        }
        case 'scatterAddParts':
          return scatterAddParts(share(0, 0), share(1, 0), this.#forms.whole(inputs[2]), how);
        default:
          return this.#builder.emit(
            op,
            inputs.map((_, i) => share(i, 0)),
            cut,
          )[0];
      }
    };
    this.#forms.setWhole(node.outputs, [joinRanks(sum(), { ranks: this.#ranks })]);
    return true;
  }
}

/** Of ops that keep rows (Op.keepsRows): the inputs that every row reads. */
const TABLES: Partial<Record<OpName, readonly number[]>> = {
  conv2d: [1],
  conv2dGradInput: [1],
  depthwise2d: [1],
  depthwise2dGradInput: [1],
  layerNorm: [1, 2],
  rmsNorm: [1],
  rope: [1, 2],
};

/** Ops whose elements have numbers that their inputs count: like, seed, step, and the number of the first element. */
const isRandom = (op: string): boolean => op === 'dropout' || op === 'uniform';
