// Decides which values are stored in memory. Inputs, outputs, updates, and the operands and results of kernels with
// loops of their own are stored. Any other value is stored only if recomputing it at every reader would cost more:
// recomputing costs `weight` operations for each read.
import { elements, usualElements } from '../base/shape.ts';
import { dimValues, producers, type Graph, type Node, type ValueId } from '../graph/graph.ts';
import type { OpTable } from '../graph/builder.ts';
import { rounds, widens } from '../graph/rounding.ts';
import type { Limits } from '../graph/limits.ts';
import { inPlaceInputs } from '../passes/own-before.ts';
import { reductionInRow } from './rows.ts';
import type { Storage, Uses } from './scope.ts';
import { viewOf } from './view.ts';

/** The inputs whose elements an op reads. */
export const readInputs = (node: Node, ops: OpTable): ValueId[] =>
  node.inputs.filter((_, i) => !ops.get(node.op)?.unread?.includes(i));

/** Leaves out nodes that no output and no update depends on, and inputs of which an op reads only the type. */
export function usesOf(graph: Graph, ops: OpTable): Uses {
  const nodes: Node[][] = graph.types.map(() => []);
  const pinned = new Set<ValueId>([
    ...graph.types.flatMap(dimValues),
    ...graph.outputs.map((o) => o.value),
    ...graph.updates.flatMap((u) => (u.unless === null ? [u.value] : [u.value, u.unless])),
  ]);
  const needed = new Set(pinned);
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some((v) => needed.has(v))) continue;
    for (const v of readInputs(node, ops)) {
      nodes[v].push(node);
      needed.add(v);
    }
    for (const d of node.outputs.flatMap((v) => dimValues(graph.types[v]))) needed.add(d);
  }
  return { nodes, pinned, needed };
}

const NEAR = 16; // how many nodes are searched for the value in which the readers of a value end

/** `mustStore`: values that are stored in any case. */
export function decideStorage(
  graph: Graph,
  ops: OpTable,
  limits: Limits,
  mustStore: ReadonlySet<ValueId> = new Set(),
): Storage {
  const uses = usesOf(graph, ops),
    made = producers(graph);
  const kindOf = (node: Node): string => ops.get(node.op)?.lower.kind ?? 'map';
  const takesStored = (node: Node, v: ValueId): boolean => {
    const lower = ops.get(node.op)?.lower;
    if (lower?.kind === 'collective') return true;
    if (lower?.kind !== 'loops') return lower?.kind === 'matmul' && lower.stored === true;
    return node.inputs.some((x, i) => x === v && !lower.strided?.includes(i)) || !readInPlace(v);
  };
  const stored = new Set<ValueId>(graph.inputs.map((i) => i.value));
  const alias = new Map<ValueId, ValueId>(),
    places = new Map<ValueId, ValueId>();
  const home = (v: ValueId): ValueId => alias.get(v) ?? v;
  const memory = (v: ValueId): ValueId => places.get(home(v)) ?? home(v);
  const passes = (node: Node): number => {
    const lower = ops.get(node.op)?.lower;
    return lower?.kind === 'map' ? (lower.passes ?? 1) : 1;
  };
  const place = new Map(graph.nodes.map((node, i) => [node, i]));
  const readsDisjointSlice = (node: Node): boolean => {
    const lower = ops.get(node.op)?.lower;
    return lower?.kind === 'map' && lower.readsDisjointSlice === true;
  };
  const withinRow = new Set<ValueId>(),
    closesRow = new Set<ValueId>();
  const readsOnce = (node: Node): boolean => {
    const lower = ops.get(node.op)?.lower;
    return lower?.kind === 'map' && lower.readsEachInputOnce === true;
  };
  const weights = new Array<number>(graph.types.length).fill(1);

  for (const node of graph.nodes) {
    if (!node.outputs.some((v) => uses.needed.has(v))) continue;
    const lower = ops.get(node.op)?.lower;
    if (lower?.kind !== 'map') {
      for (const v of node.outputs) stored.add(v);
      inPlaceInputs(node, ops).forEach((at, i) => {
        places.set(node.outputs[i], memory(node.inputs[at]));
      });
      continue;
    }
    // Reading a value from memory costs 1; recomputing it costs what its expression costs.
    const weight = (lower.weight ?? 1) + readInputs(node, ops).reduce((w, v) => w + readWeight(node, v), 0);
    const inRow = reductionInRow(node, graph, ops, uses);
    if (inRow && !inRow.within.some((v) => closesRow.has(v))) {
      for (const v of inRow.within) withinRow.add(v);
      closesRow.add(inRow.stored);
    }
    for (const v of node.outputs) {
      if (withinRow.has(v)) {
        weights[v] = weight;
        continue;
      }
      if (stored.has(node.inputs[0]) && (node.op === 'reshape' || widensForReaders(node))) {
        alias.set(v, home(node.inputs[0]));
        stored.add(v);
        continue;
      }
      const reads = readersShareOneSink(v) ? 1 : readsOf(v);
      const needed = uses.pinned.has(v) || closesRow.has(v) || uses.nodes[v].some((node) => takesStored(node, v));
      const cheapToRecompute = weight * reads <= weight + 1.5 + reads;
      // A matmul that only this value reads is not stored if this value is: the epilogue of the matmul computes this
      // value.
      const epilogue = node.inputs.some(
        (i) =>
          made[i] &&
          kindOf(made[i]) === 'matmul' &&
          uses.nodes[i].length === 1 &&
          !uses.pinned.has(i) &&
          elements(graph.types[i].shape) === elements(graph.types[v].shape),
      );
      // An op that reads a whole row for one element is never recomputed inside another loop.
      if (
        needed ||
        mustStore.has(v) ||
        narrows(node) ||
        (lower.stored?.(node.attrs, node.outputs.indexOf(v), limits) && !uses.nodes[v].every(narrows)) ||
        lower.passes !== undefined ||
        !cheapToRecompute ||
        (epilogue && lower.linear)
      ) {
        // Stores the operand of the reshape instead, with its own rows: rows and columns then need not be computed by
        // division. Of a value that is widened from 16 bits, stores those.
        if ((node.op === 'reshape' && !uses.pinned.has(v)) || widensForReaders(node)) {
          stored.add(node.inputs[0]);
          alias.set(v, home(node.inputs[0]));
        }
        stored.add(v);
      } else weights[v] = weight;
    }
  }
  return { graph, ops, limits, producers: made, stored, home, memory, uses };

  /** Whether the result is all that is read of a float32 value, rounded to 16 bits: it is stored, not the other. */
  function narrows(node: Node): boolean {
    const [from] = node.inputs;
    return rounds(node, graph.types) && uses.nodes[from].length === 1 && !uses.pinned.has(from);
  }

  /** Whether the readers of the result load 16-bit floats and widen them: the result itself is not stored. */
  function widensForReaders(node: Node): boolean {
    const [v] = node.outputs;
    // A collective moves the bytes of its operands, and converts nothing.
    return widens(node, graph.types) && !uses.pinned.has(v) && !uses.nodes[v].some((n) => kindOf(n) === 'collective');
  }

  /**
   * Whether a slice is read where it lies rather than copied. It is copied only if the larger value would otherwise
   * stay in memory much longer.
   */
  function readInPlace(v: ValueId): boolean {
    const view = viewOf(v, graph.types, made, stored);
    if (!view) return false;
    if (
      uses.pinned.has(view.of) ||
      !made[view.of] ||
      2 * elements(graph.types[v].shape) >= elements(graph.types[view.of].shape)
    )
      return true;
    const lastOf = (x: ValueId): number => Math.max(-1, ...uses.nodes[x].map((n) => place.get(n) ?? 0));
    const others = (x: ValueId): number =>
      Math.max(
        -1,
        ...uses.nodes[x].map((n) =>
          ['reshape', 'slice', 'transpose'].includes(n.op)
            ? n.outputs[0] === v
              ? -1
              : others(n.outputs[0])
            : (place.get(n) ?? 0),
        ),
      );
    return lastOf(v) - others(home(view.of)) <= NEAR;
  }

  /** Elements of v. A list with one place for each row of `of` is counted with the usual number of rows of `of`. */
  function sizeOf(v: ValueId, of?: ValueId): number {
    const { shape } = graph.types[v],
      lead = of === undefined ? undefined : graph.types[of].shape[0];
    return usualElements(typeof lead === 'object' && shape[0] === lead.bound ? [lead, ...shape.slice(1)] : shape);
  }

  function readWeight(node: Node, v: ValueId): number {
    if (made[v]?.op === 'constant') return 0;
    // Many elements of a large result share one read of a small operand: it is read once per row, not once per element.
    return (
      (stored.has(v) ? 1 : weights[v]) * Math.min(1, sizeOf(v, node.outputs[0]) / Math.max(1, sizeOf(node.outputs[0])))
    );
  }

  /**
   * Whether everything that reads v leads, element by element, to one value: the kernel of that value then computes v
   * once.
   */
  function readersShareOneSink(v: ValueId): boolean {
    if (uses.nodes[v].length < 2 || uses.pinned.has(v)) return false;
    const left = new Map([[v, new Set(uses.nodes[v])]]),
      size = elements(graph.types[v].shape);
    for (let seen = 0; seen < NEAR; seen++) {
      const node = [...left.values()]
        .flatMap((readers) => [...readers])
        .reduce((a, b) => ((place.get(b) ?? 0) < (place.get(a) ?? 0) ? b : a));
      const lower = ops.get(node.op)?.lower,
        [out] = node.outputs;
      if (
        lower?.kind !== 'map' ||
        !lower.linear ||
        node.outputs.length > 1 ||
        elements(graph.types[out].shape) !== size
      )
        return false;
      for (const [x, readers] of left) if (readers.delete(node) && readers.size === 0) left.delete(x);
      if (left.size === 0) return true;
      if (uses.pinned.has(out) || uses.nodes[out].length === 0) return false;
      left.set(out, new Set(uses.nodes[out]));
    }
    return false;
  }

  /** How often each element of v is read, over all readers. */
  function readsOf(v: ValueId): number {
    const size = Math.max(1, sizeOf(v));
    return uses.nodes[v].reduce((n, node) => {
      const out = kindOf(node) === 'matmul' ? size : Math.max(...node.outputs.map((o) => sizeOf(o)));
      // A matmul operand that is computed while it is packed costs about one read more.
      return (
        n +
        (readsOnce(node) ? 1 : Math.max(readsDisjointSlice(node) ? 0 : 1, out / size)) *
          (kindOf(node) === 'matmul' ? 2 : passes(node))
      );
    }, 0);
  }
}
