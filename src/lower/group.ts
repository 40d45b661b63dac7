// Groups stored values into kernels. A kernel is a matmul with an epilogue, a routine, or loops over one shape. A value
// joins the kernel of a value that it reads element by element (so that the element never leaves the registers), unless
// something else that it reads must come after that kernel.
import { VerifyError } from '../base/errors.ts';
import { byteSize, elements, sameDim } from '../base/shape.ts';
import { dimValues, type Node, type ValueId } from '../graph/graph.ts';
import { computeLate } from './late.ts';
import { orderTasks, type Ordered } from './order.ts';
import type { Storage } from './scope.ts';
import { readInputs } from './store.ts';

export interface Group {
  readonly kind: 'map' | 'matmul' | 'loops';
  /** For matmul and loops: the node that the kernel runs. */
  readonly node: Node | null;
  /** Values the kernel computes; those that no other kernel and no output needs are not stored. */
  readonly members: ValueId[];
  roots: ValueId[];
  /** Update kernels: the int32 value that must be 0. */
  unless: ValueId | null;
  /** Values read from memory. */
  readonly reads: Set<ValueId>;
  /** Those of them that it reads at other places than the element at hand. */
  readonly readAtOtherIndices: Set<ValueId>;
  /**
   * Kernels that must come before for another reason: they read a state that this one overwrites, or this one comes
   * late (late.ts).
   */
  readonly after: Set<Group>;
}

export interface Grouping {
  /** In an order in which every kernel follows those it depends on. */
  readonly groups: readonly Group[];
  /** Update values that are written straight into their state. */
  readonly inPlace: ReadonlySet<ValueId>;
}

/**
 * What a value's expression reads from memory: at the same element (`same`), or anywhere (`other`); whether it sums up
 * rows (rows.ts).
 */
interface Leaves {
  readonly same: Set<ValueId>;
  readonly other: Set<ValueId>;
  reduces: boolean;
}

/**
 * An update may be the epilogue of the product that makes its gradient, which then is never stored; or follow it, so
 * that the product need not wait for the last reader of the old value. What takes less memory is taken.
 */
export function groupKernels(storage: Storage): Grouping {
  const fused = groupOnce(storage, true);
  const updated = new Set(storage.graph.updates.map((u) => u.value));
  if (!fused.groups.some((g) => g.kind === 'matmul' && g.members.some((v) => updated.has(v)))) return fused;
  const apart = groupOnce(storage, false);
  return apart.peak < fused.peak ? apart : fused;
}

function groupOnce(storage: Storage, fuseUpdates: boolean): Grouping & { readonly peak: number } {
  const { graph, ops, stored, producers, home, memory, uses } = storage;
  const groupOf = new Map<ValueId, Group>(),
    groups: Group[] = [];
  const guards = guardsOf(),
    overwrites = new Map(graph.updates.map((u) => [u.value, u.state]));

  const aliased = new Set([...uses.pinned].map(home));

  for (const node of graph.nodes) {
    const kind = ops.get(node.op)?.lower.kind ?? 'map';
    const roots = node.outputs.filter((v) => uses.needed.has(v) && stored.has(v) && home(v) === v);
    if (roots.length === 0) continue;
    if (kind !== 'map') {
      const { same, other } = leavesOf(node.outputs[0], true);
      add({
        kind,
        node,
        members: [...node.outputs],
        roots: [...node.outputs],
        unless: commonGuard(node.outputs),
        reads: new Set([...same, ...other]),
        readAtOtherIndices: other,
        after: new Set(),
      });
      continue;
    }
    roots.forEach((v, i) => assignToKernel(v, roots[i - 1]));
  }
  const read = new Set(groups.flatMap((g) => [...g.reads].map(home)));
  for (const g of groups) {
    if (g.kind !== 'loops') g.roots = g.members.filter((v) => read.has(v) || uses.pinned.has(v) || aliased.has(v));
  }
  const inPlace = overwriteStates();
  computeLate(groups, producers, before);
  const { order, peak } = orderGroups();
  return { groups: order, inPlace, peak };

  function add(group: Group): void {
    if (group.unless !== null) group.reads.add(group.unless);
    groups.push(group);
    for (const v of group.members) groupOf.set(v, group);
  }

  /** `twin`: another result of v's op, which reads the same. */
  function assignToKernel(v: ValueId, siblingOutput?: ValueId): void {
    const { same, other, reduces } = leavesOf(v, false);
    const guard = commonGuard([v]),
      beside = siblingOutput === undefined ? undefined : groupOf.get(siblingOutput);
    if (
      beside?.kind === 'map' &&
      (fits(beside, v, guard) || (beside.unless === guard && isRowOf(v, beside.members[0])))
    ) {
      beside.members.push(v);
      groupOf.set(v, beside);
      return;
    }
    // Newest first: the kernel that can take this value without waiting for less.
    const hosts = [...new Set([...same].flatMap((s) => groupOf.get(home(s)) ?? []))].reverse();
    // What sums up rows begins a kernel of rows of its own.
    const host = reduces
      ? undefined
      : hosts.find(
          (g) =>
            g.kind !== 'loops' &&
            (fuseUpdates || g.kind === 'map' || !same.has(overwrites.get(v) ?? -1)) &&
            fits(g, v, guard) &&
            [...same, ...other].every((leaf) => {
              const maker = groupOf.get(home(leaf));
              return maker === g ? !other.has(leaf) : maker === undefined || !reaches(maker, g);
            }),
        );
    // Updates of one optimiser step that read the same things share a loop, though none reads another's result.
    const sibling =
      host ??
      (guard === null || reduces
        ? undefined
        : groups.findLast(
            (g) =>
              g.kind === 'map' &&
              g.unless === guard &&
              sameSize(g.members[0], v) &&
              [...same].some((s) => g.reads.has(s)) &&
              [...same, ...other].every((leaf) => {
                const maker = groupOf.get(home(leaf));
                return maker === undefined || (maker !== g && !reaches(maker, g));
              }),
          ));
    if (!sibling) {
      add({
        kind: 'map',
        node: null,
        members: [v],
        roots: [v],
        unless: guard,
        reads: new Set([...same, ...other]),
        readAtOtherIndices: other,
        after: new Set(),
      });
      return;
    }
    sibling.members.push(v);
    for (const leaf of [...same, ...other]) if (groupOf.get(home(leaf)) !== sibling) sibling.reads.add(leaf);
    for (const leaf of other) sibling.readAtOtherIndices.add(leaf);
    groupOf.set(v, sibling);
  }

  /** A kernel that may be skipped stores nothing that is needed all the same. */
  function fits(g: Group, v: ValueId, guard: ValueId | null): boolean {
    return g.unless === guard && sameSize(g.members[0], v);
  }

  /** Values that only updates with one guard depend on: what makes them may be skipped with the updates. */
  function guardsOf(): Map<ValueId, ValueId> {
    const free = new Set<ValueId>([...graph.outputs.map((o) => home(o.value)), ...graph.types.flatMap(dimValues)]);
    const found = new Map<ValueId, ValueId>();
    const use = (v: ValueId, guard: ValueId | undefined): void => {
      const before = found.get(home(v));
      if (guard === undefined || (before !== undefined && before !== guard)) free.add(home(v));
      else found.set(home(v), guard);
    };
    for (const u of graph.updates) use(u.value, u.unless ?? undefined);
    for (const u of graph.updates) if (u.unless !== null) free.add(home(u.unless));
    for (const node of [...graph.nodes].reverse()) {
      const needed = node.outputs.filter((v) => uses.needed.has(v));
      if (needed.length === 0) continue;
      const guard = commonGuard(needed, found, free);
      for (const v of readInputs(node, ops)) use(v, guard ?? undefined);
    }
    for (const v of free) found.delete(v);
    return found;
  }

  function commonGuard(
    values: readonly ValueId[],
    found = guards,
    free: ReadonlySet<ValueId> = new Set(),
  ): ValueId | null {
    const all = values
      .filter((v) => uses.needed.has(v))
      .map((v) => (free.has(home(v)) ? undefined : found.get(home(v))));
    return all.length > 0 && all.every((g) => g !== undefined && g === all[0]) ? (all[0] ?? null) : null;
  }

  function sameSize(a: ValueId, b: ValueId): boolean {
    const [x, y] = [graph.types[a].shape, graph.types[b].shape];
    return (
      elements(x) === elements(y) && typeof x[0] === typeof y[0] && (typeof x[0] !== 'object' || sameDim(x[0], y[0]))
    );
  }

  /** Whether v has one number for each row of what an op computes row by row (the mean beside what is normalised). */
  function isRowOf(v: ValueId, wide: ValueId): boolean {
    const [{ shape: of }, { shape: rows }] = [graph.types[wide], graph.types[v]],
      lower = ops.get(producers[v]?.op ?? '')?.lower;
    return (
      producers[v] === producers[wide] &&
      lower?.kind === 'map' &&
      lower.passes !== undefined &&
      rows.length > 0 &&
      rows.length === of.length - 1 &&
      rows.every((d, i) => sameDim(d, of[i]))
    );
  }

  /** Whether group `from` runs after `to` because it reads, directly or not, what `to` makes. */
  function reaches(from: Group, to: Group): boolean {
    const seen = new Set([from]),
      queue = [from];
    for (let g = queue.pop(); g; g = queue.pop()) {
      if (g === to) return true;
      for (const b of before(g)) {
        if (seen.has(b)) continue;
        seen.add(b);
        queue.push(b);
      }
    }
    return false;
  }

  /** The kernels that `g` directly follows. */
  function before(g: Group): Group[] {
    const found = [...g.after];
    for (const leaf of g.reads) {
      const maker = groupOf.get(home(leaf));
      if (maker !== undefined && maker !== g) found.push(maker);
    }
    return found;
  }

  /**
   * A state may be overwritten by the kernel that makes its new value, after all that read the old one, if none of
   * those needs the new one.
   */
  function overwriteStates(): Set<ValueId> {
    const done = new Set<ValueId>(),
      readersOf = new Map<ValueId, Set<Group>>();
    for (const g of groups)
      for (const leaf of g.reads) readersOf.set(home(leaf), (readersOf.get(home(leaf)) ?? new Set()).add(g));
    for (const { state, value, unless } of graph.updates) {
      const writer = groupOf.get(value);
      // A kernel with loops of its own writes on the state where it goes on with it, and elsewhere where it does not.
      const goesOn = writer?.kind === 'loops' && home(value) !== memory(value) && memory(value) === state;
      if (!writer || !soleUse(value) || (writer.kind === 'loops' && !goesOn)) continue;
      // What else needs the value needs it even where the update is not to be: the kernel runs, and the state waits for
      // a copy.
      if (writer.unless !== unless) {
        if (goesOn) throw new VerifyError('lower', 'a state that is gone on with has ' + 'a guard of its own');
        continue;
      }
      if (!goesOn && [...writer.readAtOtherIndices].some((leaf) => home(leaf) === state)) continue;
      const readers = [...(readersOf.get(state) ?? [])].filter((g) => g !== writer);
      if (readers.some((g) => reaches(g, writer))) {
        if (goesOn) throw new VerifyError('lower', 'a state that is ' + 'gone on with is read after');
        continue;
      }
      for (const g of readers) writer.after.add(g);
      done.add(value);
    }
    return done;
  }

  function leavesOf(v: ValueId, routine: boolean): Leaves {
    const leaves: Leaves = { same: new Set(), other: new Set(), reduces: false };
    const seen = new Set<number>();
    const visit = (value: ValueId, same: boolean, top: boolean): void => {
      const key = 2 * value + Number(same);
      if (seen.has(key)) return;
      seen.add(key);
      const node = producers[value];
      for (const d of graph.types[value].shape)
        if (typeof d !== 'number') leaves.other.add(d.kind === 'bounded' ? d.count : d.offsets);
      if (!node || (stored.has(value) && !top)) {
        (same ? leaves.same : leaves.other).add(value);
        return;
      }
      const lower = ops.get(node.op)?.lower;
      const direct = same && lower?.kind === 'map' && lower.linear !== undefined;
      if (lower?.kind === 'map' && lower.passes !== undefined && !top) leaves.reduces = true;
      // Of inputs that are not read the number of rows may be.
      for (const i of ops.get(node.op)?.unread ?? [])
        if (i < node.inputs.length) for (const d of dimValues(graph.types[node.inputs[i]])) leaves.other.add(d);
      for (const input of readInputs(node, ops)) visit(input, direct && sameSize(input, value), false);
    };
    visit(v, !routine, true);
    for (const leaf of leaves.other) leaves.same.delete(leaf);
    return leaves;
  }

  function soleUse(v: ValueId): boolean {
    return graph.outputs.every((o) => o.value !== v) && graph.updates.filter((u) => u.value === v).length === 1;
  }

  function orderGroups(): Ordered<Group> {
    // Results lie elsewhere; what is copied to its state at the end lives that long.
    const elsewhere = new Set(graph.outputs.map((o) => memory(o.value))),
      copied = new Set(graph.updates.flatMap((u) => (inPlace.has(u.value) ? [] : [memory(u.value)])));
    const arena = (v: ValueId): boolean => groupOf.has(v) && !elsewhere.has(v) && !inPlace.has(v);
    return orderTasks(
      groups.map((g) => {
        const reads = [...new Set([...g.reads].map(memory))].filter(
          (v) => arena(v) && !copied.has(v) && groupOf.get(v) !== g,
        );
        const makes = g.roots.filter((v) => arena(v) && memory(v) === v);
        return {
          of: g,
          before: before(g),
          makes,
          reads,
          overwrites: g.kind === 'loops' ? [] : reads.filter((v) => !g.readAtOtherIndices.has(v)),
        };
      }),
      (v) => byteSize(graph.types[v]),
    );
  }
}
