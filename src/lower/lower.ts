// Graph to kernels: decides which values are stored, which are computed in one kernel, and in which order the kernels
// run. Takes an optimised Graph, gives a Lowered.
import { boundOf, elements, type TensorType } from '../base/shape.ts';
import type { Collective } from '../base/collective.ts';
import { VerifyError } from '../base/errors.ts';
import { hashHex } from '../base/hash.ts';
import { keepRecent } from '../base/recent.ts';
import { producers, type Graph, type Node, type Update, type ValueId } from '../graph/graph.ts';
import type { Limits } from '../graph/limits.ts';
import type { OpTable } from '../graph/builder.ts';
import { postorder, type Expr } from '../kernel/expr.ts';
import type { Kernel, Stmt } from '../kernel/kernel.ts';
import { printKernel } from '../kernel/print.ts';
import { verifyKernel } from '../kernel/verify.ts';
import type { Group } from './group.ts';
import { checkDtypes, groupWithin } from './limits.ts';
import type { CollectiveCall, CopyCall, KernelCall, Lowered } from './lowered.ts';
import { buildLoops } from './loops.ts';
import { buildMatmul } from './matmul.ts';
import { buildNest } from './nest.ts';
import { Scope, type Storage } from './scope.ts';
import { rowsOf, signatureOf, recordSizeReads } from './signature.ts';
import { readInputs } from './store.ts';
import type { Exchanges } from './task.ts';

/**
 * Kernels that were built before, by the signature of their group (signature.ts). Kept between graphs of one model,
 * which need mostly the same kernels.
 */
export type KernelMemo = Map<string, Family>;
/**
 * How many families are kept, and how many kernels of each family: more than a model needs whose batches come in a few
 * dozen shapes.
 */
const FAMILIES = 4096,
  ROWS = 64;
/**
 * Kernels that differ only in the number of rows of some values. `looked`: the values whose number of rows the building
 * of these kernels has read.
 */
interface Family {
  readonly looked: Set<number>;
  readonly byRows: Map<string, Built>;
}
/** A kernel, and the number (in the signature) of the value behind each of its buffers. */
type Built = Pick<KernelCall, 'kernel' | 'key' | 'ints' | 'inPlace'> & { readonly values: readonly number[] };

/** `limits`: of the device. `memo`: kernels that were built before, under the same limits. */
export function lower(
  graph: Graph,
  ops: OpTable,
  limits: Limits,
  memo: KernelMemo = new Map(),
  exchanges?: Exchanges,
): Lowered {
  checkDtypes(graph, limits);
  const { storage, groups, inPlace } = groupWithin(graph, ops, limits, exchanges);
  const alias = new Map<ValueId, ValueId>();
  for (const v of storage.stored) if (storage.memory(v) !== v) alias.set(v, storage.memory(v));
  const copies = graph.updates.filter((u) => !inPlace.has(u.value)).map((u) => copyCall(storage, u));
  return {
    graph,
    storage,
    groups,
    calls: [...groups.map((g) => callOf(storage, ops, g, memo)), ...copies],
    alias,
    inPlaceUpdates: inPlace,
  };
}

/**
 * Lowers a graph that has the values and nodes of one that was lowered before, with other bounds or other attributes of
 * nodes with loops of their own (`graph/retype.ts`). What is stored and which values share a kernel does not change.
 */
export function lowerAgain(before: Lowered, graph: Graph, ops: OpTable, memo: KernelMemo): Lowered {
  const storage = { ...before.storage, graph, producers: producers(graph) };
  const same = (v: ValueId): boolean =>
    graph.types[v] === before.graph.types[v] && storage.producers[v] === before.storage.producers[v];
  const groups = before.groups.map((g) => (g.node ? { ...g, node: storage.producers[g.node.outputs[0]] ?? null } : g));
  const calls = before.calls.map((c, i) => {
    const g = groups[i] as Group | undefined,
      old = before.groups[i] as Group | undefined;
    return !g || (g.node === old?.node && g.members.every(same) && [...g.reads].every(same))
      ? c
      : callOf(storage, ops, g, memo);
  });
  return { ...before, graph, storage, groups, calls };
}

const keyOf = (kernel: Kernel): string => hashHex(printKernel(kernel));

/**
 * For the update of a state that could not be written in place: copies the new value when every reader of the old value
 * is done.
 */
function copyCall({ home }: Storage, { state, value, unless }: Update): CopyCall {
  return { kind: 'copy', buffers: [state, home(value)], unless, ops: ['update'], scope: '', flops: 0 };
}

function callOf(storage: Storage, ops: OpTable, group: Group, memo: KernelMemo): KernelCall | CollectiveCall {
  return group.node && group.kind === 'collective'
    ? collectiveCall(storage, ops, group.node, group.unless)
    : kernelCall(storage, ops, group, memo);
}

/** Inputs of which only the type is read are left out. */
function collectiveCall({ graph, home }: Storage, ops: OpTable, node: Node, unless: ValueId | null): CollectiveCall {
  const op = ops.get(node.op);
  if (op?.lower.kind !== 'collective') throw new VerifyError('lower', `${node.op} is no collective`);
  const read = readInputs(node, ops).map(home),
    types = (vs: readonly ValueId[]): TensorType[] => vs.map((v) => graph.types[v]);
  return {
    kind: 'collective',
    collective: node.op as Collective,
    buffers: [...read, ...node.outputs],
    writes: [...read.map(() => false), ...node.outputs.map(() => true)],
    ints: op.lower.ints({ inTypes: types(node.inputs), outTypes: types(node.outputs), attrs: node.attrs }),
    unless,
    ops: [node.op],
    scope: node.scope,
    flops: 0,
  };
}

function kernelCall(storage: Storage, ops: OpTable, group: Group, memo: KernelMemo): KernelCall {
  const { text, values, numbers } = signatureOf(storage, ops, group),
    { graph } = storage;
  const family = keepRecent(
    memo,
    text,
    memo.get(text) ?? { looked: new Set<number>(), byRows: new Map<string, Built>() },
    FAMILIES,
  );
  const rows = (): string => [...family.looked].map((n) => rowsOf(graph.types[values[n]])).join();
  const made = family.byRows.get(rows()) ?? make(),
    { values: behind, ...built } = keepRecent(family.byRows, rows(), made, ROWS);
  const nodes = [group.node, ...group.roots.map((v) => storage.producers[v])].flatMap((n) => n ?? []);
  return {
    kind: 'kernel',
    ...built,
    buffers: behind.map((n) => values[n]),
    unless: group.unless,
    ops: [...new Set(nodes.map((n) => n.op))],
    scope: nodes[0]?.scope ?? '',
    flops: flopsOf(graph, group, built.kernel),
  };

  function make(): Built {
    const seen = new Set<ValueId>(),
      made = build({ ...storage, graph: { ...graph, types: recordSizeReads(graph.types, seen) } }, ops, group, numbers);
    const fresh = [...seen].map((v) => numberOf(numbers, v)).filter((n) => !family.looked.has(n));
    // The kernels built before were told apart by fewer numbers of rows: they are dropped.
    if (fresh.length > 0) family.byRows.clear();
    for (const n of fresh) family.looked.add(n);
    return made;
  }
}

function numberOf(numbers: ReadonlyMap<ValueId, number>, v: ValueId): number {
  const n = numbers.get(v);
  if (n === undefined) throw new VerifyError('lower', `a kernel reads %${v}, which its signature does not contain`);
  return n;
}

/**
 * One operation for each element; 2 m n k for a product. Where rows or depth are counted, all groups together have at
 * most the bound.
 */
function flopsOf({ types }: Graph, { node, roots }: Group, kernel: Kernel): number {
  if (kernel.form !== 'matmul' || !node) return roots.reduce((n, v) => n + elements(types[v].shape), 0);
  const { depth, groups } = kernel,
    result = elements(types[node.outputs[0]].shape);
  if (typeof depth === 'number') return 2 * result * depth;
  const rows = boundOf(types[node.inputs[0]].shape[0]);
  return 'count' in depth ? 2 * result * depth.times * rows : 2 * (result / groups) * rows;
}

function build(storage: Storage, ops: OpTable, group: Group, numbers: ReadonlyMap<ValueId, number>): Built {
  const { graph } = storage,
    scope = new Scope(storage, group.members),
    kernel = verifyKernel(make());
  const values = scope.values.map((v) => numberOf(numbers, v));
  return {
    kernel,
    key: keyOf(kernel),
    ints: [...scope.ints],
    inPlace: group.kind === 'loops' || !storage.limits.inPlace ? [] : inPlacePairs(kernel),
    values,
  };

  function make(): Kernel {
    if (group.kind === 'map' || !group.node) return buildNest(graph, scope, group.roots);
    if (group.kind === 'loops') return buildLoops(storage, scope, group.node);
    return buildMatmul(graph, ops, scope, group.node, group.roots);
  }
}

/**
 * Pairs [written buffer, read buffer] that may share memory: each element is read only at the index at which it is
 * written.
 */
function inPlacePairs(kernel: Kernel): [number, number][] {
  const written = new Map<number, Expr>(),
    values: Expr[] = [];
  const visit = (stmts: readonly Stmt[]): void => {
    for (const s of stmts) {
      if (s.s === 'store') {
        written.set(s.buffer, s.index);
        values.push(s.value, s.index);
      } else if (s.s === 'set') values.push(s.value);
      else if (s.s === 'reduce') values.push(...s.targets.map((t) => t.value), s.extent);
      else if (s.s === 'for') {
        values.push(s.extent);
        visit(s.body);
      } else if (s.s === 'if') {
        values.push(s.condition);
        visit(s.body);
      }
    }
  };
  if (kernel.form === 'matmul') {
    visit([...kernel.epilogue.row, ...kernel.epilogue.element]);
    values.push(kernel.a, kernel.b);
  } else visit(kernel.body);
  const readAt = new Map<number, Set<Expr>>();
  for (const e of postorder(values))
    if (e.k === 'load') readAt.set(e.buffer, (readAt.get(e.buffer) ?? new Set()).add(e.index));
  const pairs: [number, number][] = [];
  for (const [out, index] of written) {
    for (const [input, at] of readAt) {
      const fits = kernel.buffers[input].dtype === kernel.buffers[out].dtype;
      if (fits && at.size === 1 && at.has(index)) pairs.push([out, input]);
    }
  }
  return pairs;
}
