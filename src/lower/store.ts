// Decides which values are stored. An input, an output, an update, what a routine makes or needs, is stored; any other
// value is stored only where that is cheaper than computing it again at every reader: recomputing costs `weight`
// operations a read.
import { elements, usualElements } from '../base/shape.ts';
import { dimValues, producers, type Graph, type Node, type ValueId } from '../graph/graph.ts';
import type { OpTable } from '../graph/builder.ts';
import { ontoInputs } from '../passes/own-before.ts';
import { reductionInRow } from './rows.ts';
import type { Storage, Uses } from './scope.ts';
import { viewOf } from './view.ts';

/** The inputs whose elements an op reads. */
export const readInputs = (node: Node, ops: OpTable): ValueId[] =>
  node.inputs.filter((_, i) => !ops.get(node.op)?.unread?.includes(i));

/** Nodes that no output and no update depends on are left out, and inputs of which an op takes only the type. */
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

const NEAR = 16; // nodes within which readers of a value are looked for a common end

export function decideStorage(graph: Graph, ops: OpTable): Storage {
  const uses = usesOf(graph, ops),
    made = producers(graph);
  const kindOf = (node: Node): string => ops.get(node.op)?.lower.kind ?? 'map';
  const takesStored = (node: Node, v: ValueId): boolean => {
    const lower = ops.get(node.op)?.lower;
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
  const isPart = (node: Node): boolean => {
    const lower = ops.get(node.op)?.lower;
    return lower?.kind === 'map' && lower.readsDisjointSlice === true;
  };
  const withinRow = new Set<ValueId>(),
    closesRow = new Set<ValueId>();
  const readsOnce = (node: Node): boolean => {
    const lower = ops.get(node.op)?.lower;
    return lower?.kind === 'map' && lower.once === true;
  };
  const weights = new Array<number>(graph.types.length).fill(1);

  for (const node of graph.nodes) {
    if (!node.outputs.some((v) => uses.needed.has(v))) continue;
    const lower = ops.get(node.op)?.lower;
    if (lower?.kind !== 'map') {
      for (const v of node.outputs) stored.add(v);
      ontoInputs(node, ops).forEach((at, i) => {
        places.set(node.outputs[i], memory(node.inputs[at]));
      });
      continue;
    }
    // A value read from memory weighs 1, one that is computed again weighs what it is made of.
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
      if (node.op === 'reshape' && stored.has(node.inputs[0])) {
        alias.set(v, home(node.inputs[0]));
        stored.add(v);
        continue;
      }
      const reads = readersShareOneSink(v) ? 1 : readsOf(v);
      const needed = uses.pinned.has(v) || closesRow.has(v) || uses.nodes[v].some((node) => takesStored(node, v));
      const again = weight * reads <= weight + 1.5 + reads;
      // A sum of products that only this value reads is not stored if this value is: its epilogue computes it.
      const epilogue = node.inputs.some(
        (i) =>
          made[i] &&
          kindOf(made[i]) === 'matmul' &&
          uses.nodes[i].length === 1 &&
          !uses.pinned.has(i) &&
          elements(graph.types[i].shape) === elements(graph.types[v].shape),
      );
      // What needs a whole row for one element is never repeated inside another loop.
      if (
        needed ||
        lower.stored?.(node.attrs, node.outputs.indexOf(v)) ||
        lower.passes !== undefined ||
        !again ||
        (epilogue && lower.linear)
      ) {
        // Another view of what is stored instead, in its own rows: what is found by rows and columns need not be found
        // by quotients.
        if (node.op === 'reshape' && !uses.pinned.has(v)) {
          stored.add(node.inputs[0]);
          alias.set(v, home(node.inputs[0]));
        }
        stored.add(v);
      } else weights[v] = weight;
    }
  }
  return { graph, ops, producers: made, stored, home, memory, uses };

  /**
   * Whether a part of what is stored is better read there than copied: it is, unless that would keep much more alive
   * for much longer.
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

  /** Elements of v; a list with one place for each row of `of` counts as many as rows are expected there. */
  function sizeOf(v: ValueId, of?: ValueId): number {
    const { shape } = graph.types[v],
      lead = of === undefined ? undefined : graph.types[of].shape[0];
    return usualElements(typeof lead === 'object' && shape[0] === lead.bound ? [lead, ...shape.slice(1)] : shape);
  }

  function readWeight(node: Node, v: ValueId): number {
    if (made[v]?.op === 'constant') return 0;
    // One read of a small operand serves many elements of a large result: it is read once per row, not per element.
    return (
      (stored.has(v) ? 1 : weights[v]) * Math.min(1, sizeOf(v, node.outputs[0]) / Math.max(1, sizeOf(node.outputs[0])))
    );
  }

  /**
   * Whether all that reads v leads, element by element, to one value: a kernel that computes that one computes v once.
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

  /** How often each element of v is read in all. */
  function readsOf(v: ValueId): number {
    const size = Math.max(1, sizeOf(v));
    return uses.nodes[v].reduce((n, node) => {
      const out = kindOf(node) === 'matmul' ? size : Math.max(...node.outputs.map((o) => sizeOf(o)));
      // Packing an operand that is not there yet costs about as much as reading it once more.
      return (
        n +
        (readsOnce(node) ? 1 : Math.max(isPart(node) ? 0 : 1, out / size)) *
          (kindOf(node) === 'matmul' ? 2 : passes(node))
      );
    }, 0);
  }
}
