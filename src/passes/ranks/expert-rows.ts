// Rows of experts over ranks. The routing of the global batch (offsets, order, inverse) is computed by every rank. Each
// rank sends the rows of its own tokens to the ranks of their experts, computes the rows of the experts in its slots,
// in the order of the global batch, and gets the results of its tokens back. In: nodes of the global graph that make or
// read rows in segments of experts; out: the same on this rank's rows, with exchanges where rows leave or return.
//
// Where ranks cannot divide the experts, each rank has all of them and computes the rows of its own tokens. Gradients
// of the experts are then sums that go on from rank to rank (graph/ops/ranks/relay.ts).
import { boundOf, isSegmented } from '../../base/shape.ts';
import type { GraphBuilder, OpTable } from '../../graph/builder.ts';
import { producers, type Graph, type Node, type ValueId } from '../../graph/graph.ts';
import type { OpName } from '../../graph/op-attrs.ts';
import { segmentsOf } from '../../graph/ops/moe/routing.ts';
import { add } from '../../graph/ops/elementwise/add.ts';
import { concat } from '../../graph/ops/shape/concat.ts';
import { reshape } from '../../graph/ops/shape/reshape.ts';
import { exchangeRows, type Exchange } from '../../graph/ops/ranks/exchangeRows.ts';
import { ownOffsets } from '../../graph/ops/ranks/ownOffsets.ts';
import { rankCounts } from '../../graph/ops/ranks/rankCounts.ts';
import { rankRows, type RankRows } from '../../graph/ops/ranks/rankRows.ts';
import { relay } from '../../graph/ops/ranks/relay.ts';
import { rowSegments } from '../../graph/ops/ranks/rowSegments.ts';
import { scalar, type Tensor } from '../../graph/tensor.ts';
import type { Forms } from './forms.ts';

/** Ops that bring tokens to rows of experts: the inputs that are of tokens; order, offsets, inverse. */
const SENDS: Partial<Record<OpName, { readonly tokens: readonly number[]; readonly routing: Routed }>> = {
  dispatch: { tokens: [0], routing: { order: 1, offsets: 2, inverse: 3 } },
  combineGradRows: { tokens: [0, 1], routing: { order: 2, offsets: 3, inverse: 4 } },
};
/** Ops that bring rows back to tokens: the input of rows, the inputs that are of tokens; order, inverse. */
const RETURNS: Partial<
  Record<OpName, { readonly rows: number; readonly tokens: readonly number[]; readonly routing: Routed }>
> = {
  combine: { rows: 0, tokens: [3], routing: { inverse: 1, order: 2 } },
  combineMany: { rows: 0, tokens: [3], routing: { inverse: 1, order: 2 } },
  collect: { rows: 0, tokens: [3], routing: { inverse: 1, order: 2 } },
  combineGradWeights: { rows: 1, tokens: [0, 3], routing: { inverse: 2, order: 4 } },
};
interface Routed {
  readonly order: number;
  readonly inverse: number;
  readonly offsets?: number;
}

/** Ops that compute each expert's rows by themselves. */
const WITHIN: ReadonlySet<string> = new Set<OpName>([
  'groupedMatmul',
  'groupedOuter',
  'groupedOuterOnto',
  'segmentExpand',
  'segmentSum',
  'segmentSumOnto',
  'splitRows',
  'joinRows',
  'windowRows',
  'placeRows',
  'windowOffsets',
  'slice',
  'pad',
  'concat',
]);
/** Of these, the ones that give a matrix or a vector for each expert. */
const BY_EXPERT: ReadonlySet<string> = new Set<OpName>([
  'groupedOuter',
  'groupedOuterOnto',
  'segmentSum',
  'segmentSumOnto',
]);

/** Where the ops that sort choices give offsets, and for each vector with the expert of each row its offsets. */
const SORTS: Partial<Record<OpName, { readonly offsets: readonly number[]; readonly expert: Record<number, number> }>> =
  {
    permute: { offsets: [0], expert: { 3: 0 } },
    permuteUnless: { offsets: [0], expert: { 3: 0 } },
    admit: { offsets: [0], expert: { 3: 0 } },
    admitAll: { offsets: [0, 1, 2], expert: { 5: 0, 6: 1 } },
  };

/** Rows that belong together: one layer's, in all its segmentations. */
interface Layer {
  /** Whether all of its nodes can run on rows of experts over ranks. */
  divisible: boolean;
  /** Whether each rank has all experts, because their number cannot be divided. */
  replicated: boolean;
  /** Whether its rows within capacity are computed in windows, whose bounds are those of the global batch. */
  windowed: boolean;
  /** Whether its tokens are divided; null: not known yet. */
  divided: boolean | null;
}

/** What this rank knows of a routing. */
interface Local {
  /** null: rows stay on their rank. */
  readonly exchange: Exchange | null;
  readonly own: RankRows;
  readonly choices: number;
}

export class ExpertRows {
  readonly #graph: Graph;
  readonly #builder: GraphBuilder;
  readonly #forms: Forms;
  readonly #ranks: number;
  readonly #made: readonly (Node | undefined)[];
  readonly #layers: ReadonlyMap<ValueId, Layer>;
  /** Rows of this rank's experts, by value of the global graph. */
  readonly #rows = new Map<ValueId, Tensor>();
  /** Offsets of these rows, and the expert of each. */
  readonly #routing = new Map<ValueId, Tensor>();
  /** By the order of the global batch. */
  readonly #local = new Map<ValueId, Local>();
  /** By the offsets of the global batch, the same. */
  readonly #byOffsets = new Map<ValueId, Local>();
  /** How many sums go on from rank to rank. */
  #relays = 0;
  /** Rows that have returned to their tokens. */
  readonly #returned = new Map<ValueId, Tensor>();

  constructor(graph: Graph, builder: GraphBuilder, forms: Forms, ranks: number) {
    this.#graph = graph;
    this.#builder = builder;
    this.#forms = forms;
    this.#ranks = ranks;
    this.#made = producers(graph);
    this.#layers = findLayers(graph, builder.ops, ranks);
  }

  /** Runs a node if it belongs to rows of experts that are divided; says whether it did. */
  visit(node: Node): boolean {
    const sends = SENDS[node.op as OpName],
      returns = RETURNS[node.op as OpName];
    if (sends) {
      const layer = this.#layers.get(node.inputs[sends.routing.offsets ?? 0]);
      if (!layer?.divisible) return false;
      layer.divided ??= this.#forms.axisOf(sends.tokens.map((i) => node.inputs[i])) === 'batch';
      if (layer.divided) this.#send(node, sends);
      return layer.divided;
    }
    if (returns) {
      if (!this.#rows.has(node.inputs[returns.rows])) return false;
      this.#return(node, returns);
      return true;
    }
    if (!node.inputs.some((v) => this.#rows.has(v))) return false;
    this.#within(node);
    return true;
  }

  #send(node: Node, { tokens, routing }: { readonly tokens: readonly number[]; readonly routing: Routed }): void {
    const { inputs, outputs, attrs } = node,
      local = this.#localOf(inputs[routing.order], inputs[routing.offsets ?? 0], inputs[routing.inverse]);
    const own = inputs.map((v, i) => {
      if (tokens.includes(i)) return this.#forms.share(v, 'batch', 0);
      return i === routing.order ? local.own.order : i === routing.inverse ? local.own.inverse : local.own.offsets;
    });
    const packed = this.#builder.emit(node.op, own, attrs)[0],
      rows = this.#ownBound(inputs[routing.offsets ?? 0], boundOf(this.#graph.types[outputs[0]].shape[0]));
    this.#rows.set(
      outputs[0],
      local.exchange ? exchangeRows(packed, local.exchange, { ranks: this.#ranks, back: false, rows }) : packed,
    );
  }

  #return(
    node: Node,
    { rows, tokens, routing }: { readonly rows: number; readonly tokens: readonly number[]; readonly routing: Routed },
  ): void {
    const { inputs, outputs, attrs } = node,
      local = this.#local.get(inputs[routing.order]);
    if (!local) throw new Error(`${node.op}: rows return that were never sent`);
    const own = inputs.map((v, i) => {
      if (i === rows) return this.#back(v, local);
      if (tokens.includes(i)) return this.#forms.share(v, 'batch', 0);
      return i === routing.order ? local.own.order : local.own.inverse;
    });
    this.#forms.setShare(outputs[0], 'batch', this.#builder.emit(node.op, own, attrs)[0], {
      dim: 0,
      each: this.#eachOf(inputs[tokens[tokens.length - 1]]),
    });
  }

  /** How many tokens a sample has. */
  #eachOf(tokens: ValueId): number {
    return this.#forms.divisions('batch')[tokens]?.each ?? 1;
  }

  #back(v: ValueId, { exchange, choices }: Local): Tensor {
    const found = this.#returned.get(v),
      rows = this.#own(v);
    if (found || !exchange) return found ?? rows;
    const made = exchangeRows(rows, exchange, { ranks: this.#ranks, back: true, rows: choices });
    this.#returned.set(v, made);
    return made;
  }

  /** Sums over the rows of each expert: of this rank's experts, or of all, one rank after the other. */
  #sumByExpert(node: Node): void {
    const [out] = node.outputs,
      inputs = node.inputs.map((v) => this.#own(v));
    if (!this.#layerOf(node)?.replicated) {
      this.#forms.setShare(out, 'expert', this.#builder.emit(node.op, inputs, node.attrs)[0], { dim: 0, each: 1 });
      return;
    }
    const { dtype, shape } = this.#graph.types[out],
      zeros = this.#builder.emit('constant', [], { value: 0, dtype, shape: shape.map(boundOf) })[0],
      number = this.#relays++,
      before = relay(zeros, { phase: 'take', number }),
      // A product finds the offsets of its rows in their type, a product that continues a sum reads them.
      offsets = node.op === 'groupedOuter' ? [this.#builder.tensor(segmentsOf(node.op, inputs[0].type).offsets)] : [],
      sum = this.#builder.emit(`${node.op}Onto`, [...inputs, ...offsets, before], node.attrs)[0];
    this.#forms.setWhole([out], [relay(sum, { phase: 'give', number })]);
  }

  #layerOf(node: Node): Layer | undefined {
    const dims = node.inputs.flatMap((v) => this.#graph.types[v].shape.slice(0, 1)),
      dim = dims.find((d) => isSegmented(d));
    return dim && isSegmented(dim) ? this.#layers.get(dim.offsets) : undefined;
  }

  #within(node: Node): void {
    if (BY_EXPERT.has(node.op)) {
      this.#sumByExpert(node);
      return;
    }
    const outputs = this.#builder.emit(
      node.op,
      node.inputs.map((v) => this.#own(v)),
      node.attrs,
    );
    node.outputs.forEach((out, i) => {
      this.#rows.set(out, outputs[i]);
    });
  }

  /** A value as the rows of this rank's experts need it. */
  #own(v: ValueId): Tensor {
    const found = this.#rows.get(v) ?? this.#routing.get(v);
    if (found) return found;
    if (this.#forms.axisOf([v]) === 'expert') return this.#forms.ofExperts(v);
    const made = this.#forms.apart(() => this.#ownRouting(v));
    if (!made) return this.#forms.whole(v);
    this.#routing.set(v, made);
    return made;
  }

  /** Offsets of rows, and the expert of each row, for this rank's slots; null: the value is neither. */
  #ownRouting(v: ValueId): Tensor | null {
    const node = this.#made[v],
      sort = SORTS[node?.op as OpName];
    if (!node) return null;
    if (node.op === 'windowOffsets' || node.op === 'windowRows')
      return this.#builder.emit(
        node.op,
        node.inputs.map((x) => this.#own(x)),
        node.attrs,
      )[0];
    const at = node.outputs.indexOf(v),
      expertOf = sort?.expert[at];
    if (expertOf !== undefined) {
      const offsets = node.outputs[expertOf],
        local = this.#byOffsets.get(offsets);
      if (local && !local.exchange) return rowSegments(local.own.offsets, { rows: local.choices });
      return rowSegments(this.#own(offsets), {
        rows: this.#ownBound(offsets, boundOf(this.#graph.types[v].shape[0])),
      });
    }
    if (!sort?.offsets.includes(at)) return null;
    const local = this.#byOffsets.get(v);
    if (local && !local.exchange) return local.own.offsets;
    const segments = boundOf(this.#graph.types[v].shape[0]) - 1;
    return ownOffsets(this.#forms.whole(v), this.#slots(segments, expertsOf(node, this.#graph)), this.#forms.rank(), {
      ranks: this.#ranks,
    });
  }

  /** The most rows that can be in this rank's slots, of at most `bound` rows in all. */
  #ownBound(offsets: ValueId, bound: number): number {
    const node = this.#made[offsets],
      own = node && this.#roomOf(node);
    if (!node || own === null || own === undefined || this.#layers.get(offsets)?.windowed) return bound;
    const at = node.outputs.indexOf(offsets),
      beyond = Number(node.attrs['beyond'] ?? 0);
    if (node.op === 'admit') return Math.min(bound, own);
    return at === 0 ? Math.min(bound, own) : at === 1 ? bound : Math.min(bound, own + beyond);
  }

  /** The most rows within capacity in the slots of a rank, whichever experts they hold; null: there is no limit. */
  #roomOf(node: Node): number | null {
    const [, , capacity] = node.inputs,
      { data } = this.#graph.inputs.find((i) => i.kind === 'constant' && i.value === capacity) ?? {};
    if (!data || (node.op === 'admit' ? node.attrs['spill'] === true : node.op !== 'admitAll')) return null;
    const largest = Array.from(data, Number).sort((a, b) => b - a);
    return largest.slice(0, data.length / this.#ranks).reduce((a, b) => a + b, 0);
  }

  /** The segment in each slot: of experts, or of their rows within capacity and then of those beyond it. */
  #slots(segments: number, experts: number): Tensor {
    const slots = this.#forms.slots(experts);
    if (segments === experts) return slots;
    const ranks = reshape(slots, [this.#ranks, experts / this.#ranks]);
    return reshape(concat([ranks, add(ranks, scalar(ranks, experts))], 1), [segments]);
  }

  #localOf(order: ValueId, offsets: ValueId, inverse: ValueId): Local {
    const found = this.#local.get(order);
    if (found) return found;
    const made = this.#forms.apart((): Local => {
      const { types } = this.#graph,
        choices = boundOf(types[inverse].shape[0]) / this.#ranks,
        segments = boundOf(types[offsets].shape[0]) - 1,
        whole = (v: ValueId): Tensor => this.#forms.whole(v),
        counts = rankCounts(whole(order), whole(offsets), { ranks: this.#ranks, choices }),
        own = rankRows(
          { order: whole(order), offsets: whole(offsets), inverse: whole(inverse) },
          counts,
          this.#forms.rank(),
          { choices },
        ),
        replicated = this.#layers.get(offsets)?.replicated === true;
      if (replicated) return { own, choices, exchange: null };
      const slots = this.#slots(segments, expertsOf(this.#made[offsets], this.#graph));
      return {
        own,
        choices,
        exchange: { counts, slots, ownOffsets: this.#own(offsets), packedOffsets: own.offsets },
      };
    });
    this.#byOffsets.set(offsets, made);
    this.#local.set(order, made);
    return made;
  }
}

/** How many experts the rows have that a node sorts; 0: it sorts none. */
function expertsOf(node: Node | undefined, { types }: Graph): number {
  const first = SORTS[node?.op as OpName]?.offsets[0];
  return node && first !== undefined ? boundOf(types[node.outputs[first]].shape[0]) - 1 : 0;
}

/** By the offsets of its rows, each layer of the graph. */
function findLayers(graph: Graph, ops: OpTable, ranks: number): Map<ValueId, Layer> {
  const { nodes, types } = graph;
  const parent = new Map<ValueId, ValueId>(),
    root = (v: ValueId): ValueId => {
      const p = parent.get(v) ?? v;
      return p === v ? v : root(p);
    },
    unite = (vs: readonly ValueId[]): void => {
      for (const v of vs) parent.set(root(v), root(vs[0]));
    };
  const segmentsOf = (node: Node): ValueId[] =>
    [...node.inputs, ...node.outputs].flatMap((v) => {
      const [dim = 0] = types[v].shape;
      return isSegmented(dim) ? [dim.offsets] : [];
    });
  for (const node of nodes) {
    const sort = SORTS[node.op as OpName];
    unite(segmentsOf(node));
    if (sort) unite(sort.offsets.map((at) => node.outputs[at]));
    if (node.op === 'windowOffsets') unite([node.inputs[0], node.outputs[0]]);
  }
  const beyond = new Set(nodes.flatMap((n) => (n.op === 'admitAll' ? [n.outputs[1]] : []))),
    layers = new Map<ValueId, Layer>(),
    layerOf = (v: ValueId): Layer => {
      const made = layers.get(root(v)) ?? { divisible: true, replicated: false, windowed: false, divided: null };
      layers.set(root(v), made);
      return made;
    };
  for (const node of nodes) {
    const layer = segmentsOf(node).map(layerOf)[0] as Layer | undefined;
    if (layer && !runsOnRows(node)) layer.divisible = false;
    if (node.op === 'windowOffsets' && !beyond.has(node.inputs[0])) layerOf(node.inputs[0]).windowed = true;
  }
  /** Those whose rows are sorted once, and of which no sum continues another one. */
  const simple = new Set(
    nodes.flatMap((node) => (SORTS[node.op as OpName]?.offsets.length === 1 ? [root(node.outputs[0])] : [])),
  );
  for (const node of nodes)
    if (node.op === 'groupedOuterOnto' || node.op === 'segmentSumOnto')
      for (const v of segmentsOf(node)) simple.delete(root(v));
  const sorted = new Set(
    nodes.flatMap((node) => {
      const sort = SORTS[node.op as OpName],
        experts = expertsOf(node, graph);
      return sort && experts > 0 && experts % ranks === 0 ? sort.offsets.map((at) => root(node.outputs[at])) : [];
    }),
  );
  for (const [v, layer] of layers) {
    layer.replicated = !sorted.has(v);
    if (layer.replicated && (layer.windowed || !simple.has(v))) layer.divisible = false;
  }
  const all = new Map<ValueId, Layer>();
  for (const v of new Set(nodes.flatMap(segmentsOf))) all.set(v, layerOf(v));
  return all;

  function runsOnRows({ op, attrs, inputs }: Node): boolean {
    if (SENDS[op as OpName] || RETURNS[op as OpName] || WITHIN.has(op)) return attrs['axis'] !== 0;
    return inputs.length > 0 && ops.get(op)?.elementwise !== undefined;
  }
}
