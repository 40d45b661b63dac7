// Groups stored values into kernels. A kernel is a matmul with an epilogue, loops that an op writes itself, or one loop
// nest over the elements of its values ('map'). A value joins the kernel of a value that it reads element by element,
// so that the element stays in a register, unless something else that it reads must be computed after that kernel.
import { VerifyError } from '../base/errors.ts';
import { byteSize, sameDim } from '../base/shape.ts';
import type { Node, Update, ValueId } from '../graph/graph.ts';
import { Ancestors } from './ancestors.ts';
import { commonGuard, guardsOf, type Guards } from './guards.ts';
import { waitForNotBefore } from './not-before.ts';
import { leavesOf, sameSize, type Leaves } from './leaves.ts';
import { orderTasks, type Ordered } from './order.ts';
import type { Exchanges } from './task.ts';
import type { Storage } from './scope.ts';

/** What becomes one kernel. */
export interface Group {
  readonly kind: 'map' | 'matmul' | 'loops' | 'collective';
  /** For all but map: the node that runs. */
  readonly node: Node | null;
  /** Values that the kernel computes, whether it stores them or not. */
  readonly members: ValueId[];
  /** Values that the kernel stores: those that another kernel, an output or an update needs. */
  roots: ValueId[];
  /** The kernel runs only if this int32 value is 0 (guards.ts). */
  unless: ValueId | null;
  /** Values read from memory. */
  readonly reads: Set<ValueId>;
  /** Those of `reads` that are read (also) at other indices than that of the element that is being computed. */
  readonly readAtOtherIndices: Set<ValueId>;
  /**
   * Kernels that must run before, although this one reads nothing of them: they read a state that this one overwrites,
   * or this one has to wait (not-before.ts).
   */
  readonly after: Set<Group>;
}

export interface Grouping {
  /** In an order in which every kernel follows those it depends on. */
  readonly groups: readonly Group[];
  /** Values of updates that are written straight into the memory of their state. */
  readonly inPlace: ReadonlySet<ValueId>;
}

/** Whether no value can join a group: the op itself writes all that it stores. */
export const isClosed = ({ kind }: Pick<Group, 'kind'>): boolean => kind === 'loops' || kind === 'collective';

/** The number of buffers of a group's kernel. */
export function buffersOf(
  { home }: Storage,
  { reads, roots, unless }: Pick<Group, 'reads' | 'roots' | 'unless'>,
): number {
  const read = new Set([...reads].filter((v) => v !== unless).map(home));
  return read.size + roots.length;
}

/** With the most bytes of intermediate values that are alive at one time. */
interface Measured extends Grouping {
  readonly peak: number;
}

/**
 * An update may be the epilogue of the matmul that makes its gradient: the gradient is then never stored. Or it may be
 * a kernel of its own: the matmul then need not wait for the last reader of the state's old value. Both are tried, and
 * the one that needs less memory is taken.
 */
export function groupKernels(storage: Storage, exchanges?: Exchanges): Grouping {
  const guards = guardsOf(storage),
    known = new Map<ValueId, Leaves>();
  const leaves: LeavesOf = (v, ownLoops) => {
    const found = known.get(v) ?? leavesOf(storage, v, ownLoops);
    known.set(v, found);
    return found;
  };
  const fused = new Grouper(storage, guards, leaves, true, exchanges).run();
  const updated = new Set(storage.graph.updates.map((u) => u.value));
  if (!fused.groups.some((g) => g.kind === 'matmul' && g.members.some((v) => updated.has(v)))) return fused;
  const apart = new Grouper(storage, guards, leaves, false, exchanges).run();
  return apart.peak < fused.peak ? apart : fused;
}

/** `leavesOf` of a storage, computed once for each value. */
type LeavesOf = (v: ValueId, ownLoops: boolean) => Leaves;

/** Groups the values of one graph, once. */
class Grouper {
  readonly #storage: Storage;
  readonly #guards: Guards;
  readonly #leavesOf: LeavesOf;
  /** Whether an update may join the matmul that makes its gradient. */
  readonly #fuseUpdates: boolean;
  readonly #exchanges: Exchanges | undefined;
  /** The state that an update's value replaces. */
  readonly #stateOf: ReadonlyMap<ValueId, ValueId>;
  readonly #groups: Group[] = [];
  /** The group that computes a value. */
  readonly #groupOf = new Map<ValueId, Group>();
  /** Which groups must run after which, and the number of each group in it. */
  readonly #order = new Ancestors();
  readonly #numbers = new Map<Group, number>();
  #collectives: Group[] = [];
  /** Groups that read a value before a group computes it: a guard may be computed late in the graph. */
  readonly #waiting = new Map<ValueId, Group[]>();

  constructor(storage: Storage, guards: Guards, leaves: LeavesOf, fuseUpdates: boolean, exchanges?: Exchanges) {
    this.#storage = storage;
    this.#guards = guards;
    this.#leavesOf = leaves;
    this.#fuseUpdates = fuseUpdates;
    this.#exchanges = exchanges;
    this.#stateOf = new Map(storage.graph.updates.map((u) => [u.value, u.state]));
  }

  run(): Measured {
    for (const node of this.#storage.graph.nodes) this.#addNode(node);
    this.#keepNeededRoots();
    const inPlace = this.#overwriteStates();
    waitForNotBefore(this.#groups, this.#storage.producers, (g) => this.#directlyBefore(g));
    const { order, peak } = this.#inOrder(inPlace);
    return { groups: order, inPlace, peak };
  }

  // ---- which values share a kernel ----

  #addNode(node: Node): void {
    const { ops, stored, home, uses } = this.#storage;
    const results = node.outputs.filter((v) => uses.needed.has(v) && stored.has(v) && home(v) === v);
    if (results.length === 0) return;
    const kind = ops.get(node.op)?.lower.kind ?? 'map';
    if (kind === 'map') results.forEach((v, i) => this.#assignToKernel(v, results[i - 1]));
    else
      this.#addGroup(
        { kind, node, members: [...node.outputs], unless: this.#guardOf(node.outputs) },
        this.#leavesOf(node.outputs[0], true),
      );
    if (kind === 'collective') this.#keepOrder();
  }

  /**
   * A relay keeps its place among the collectives of the graph: between its two phases there must be no other one,
   * because a rank waits in the first until the rank before it has done the second.
   */
  #keepOrder(): void {
    const own = this.#groups[this.#groups.length - 1],
      isRelay = (g: Group): boolean => g.node?.op === 'relay';
    for (const other of this.#collectives)
      if (isRelay(own) || isRelay(other)) {
        own.after.add(other);
        this.#runAfter(own, other);
      }
    this.#collectives.push(own);
  }

  /** `siblingOutput`: the result before v of the same node, which reads the same values. */
  #assignToKernel(v: ValueId, siblingOutput?: ValueId): void {
    const guard = this.#guardOf([v]);
    const sibling = siblingOutput === undefined ? undefined : this.#groupOf.get(siblingOutput);
    if (
      sibling?.kind === 'map' &&
      this.#sharesLoopWithSibling(sibling, v, guard) &&
      this.#hasRoomFor(sibling, v, this.#leavesOf(v, false))
    ) {
      this.#addMember(sibling, v);
      return;
    }
    const leaves = this.#leavesOf(v, false);
    // What reduces rows begins a kernel of its own.
    const group = leaves.reducesRows
      ? undefined
      : (this.#groupOfOperand(v, leaves, guard) ?? this.#groupOfSimilarUpdate(v, leaves, guard));
    if (group) this.#join(group, v, leaves);
    else this.#addGroup({ kind: 'map', node: null, members: [v], unless: guard }, leaves);
  }

  #addGroup(part: Pick<Group, 'kind' | 'node' | 'members' | 'unless'>, { same, other }: Leaves): void {
    const group: Group = {
      ...part,
      members: [],
      roots: [...part.members],
      reads: new Set(),
      readAtOtherIndices: new Set(other),
      after: new Set(),
    };
    this.#groups.push(group);
    this.#numbers.set(group, this.#order.add());
    for (const leaf of [...same, ...other]) this.#addRead(group, leaf);
    if (group.unless !== null) this.#addRead(group, group.unless);
    for (const v of part.members) this.#addMember(group, v);
  }

  #addRead(group: Group, leaf: ValueId): void {
    group.reads.add(leaf);
    const maker = this.#makerOf(leaf),
      home = this.#storage.home(leaf);
    if (maker) this.#runAfter(group, maker);
    else if (this.#storage.producers[home]) this.#waiting.set(home, [...(this.#waiting.get(home) ?? []), group]);
  }

  #addMember(group: Group, v: ValueId): void {
    group.members.push(v);
    this.#groupOf.set(v, group);
    for (const reader of this.#waiting.get(v) ?? []) this.#runAfter(reader, group);
  }

  /** `group` must run after `earlier`. */
  #runAfter(group: Group, earlier: Group): void {
    if (group !== earlier) this.#order.link(this.#numberOf(group), this.#numberOf(earlier));
  }

  #numberOf(group: Group): number {
    return this.#numbers.get(group) ?? -1;
  }

  /** Whether the kernel of a group keeps within the device's number of buffers if v joins it. */
  #hasRoomFor(g: Group, v: ValueId, leaves: Pick<Leaves, 'same' | 'other'>): boolean {
    const { buffers } = this.#storage.limits;
    if (buffers === null) return true;
    const read = [...leaves.same, ...leaves.other].filter((leaf) => this.#makerOf(leaf) !== g);
    return (
      buffersOf(this.#storage, { ...g, reads: new Set([...g.reads, ...read]), roots: [...g.members, v] }) <= buffers
    );
  }

  #join(group: Group, v: ValueId, { same, other }: Leaves): void {
    for (const leaf of [...same, ...other]) if (this.#makerOf(leaf) !== group) this.#addRead(group, leaf);
    for (const leaf of other) group.readAtOtherIndices.add(leaf);
    this.#addMember(group, v);
  }

  /** The group of an operand that v reads element by element; the newest one that v can join. */
  #groupOfOperand(v: ValueId, { same, other }: Leaves, guard: ValueId | null): Group | undefined {
    const newestFirst = [...new Set([...same].flatMap((leaf) => this.#makerOf(leaf) ?? []))].reverse();
    const updatesOperand = same.has(this.#stateOf.get(v) ?? -1);
    const canJoin = (g: Group): boolean => {
      if (isClosed(g) || !this.#fits(g, v, guard) || !this.#hasRoomFor(g, v, { same, other })) return false;
      if (g.kind === 'matmul' && updatesOperand && !this.#fuseUpdates) return false;
      return [...same, ...other].every((leaf) => {
        const maker = this.#makerOf(leaf);
        return maker === g ? !other.has(leaf) : maker === undefined || !this.#reaches(maker, g);
      });
    };
    return newestFirst.find(canJoin);
  }

  /** Updates of one optimizer step that read the same values share a loop, though none reads the result of another. */
  #groupOfSimilarUpdate(v: ValueId, { same, other }: Leaves, guard: ValueId | null): Group | undefined {
    if (guard === null) return undefined;
    return this.#groups.findLast(
      (g) =>
        g.kind === 'map' &&
        this.#fits(g, v, guard) &&
        this.#hasRoomFor(g, v, { same, other }) &&
        [...same].some((leaf) => g.reads.has(leaf)) &&
        [...same, ...other].every((leaf) => {
          const maker = this.#makerOf(leaf);
          return maker === undefined || (maker !== g && !this.#reaches(maker, g));
        }),
    );
  }

  /** A kernel with a guard may be skipped: it computes only values with the same guard. */
  #fits(g: Group, v: ValueId, guard: ValueId | null): boolean {
    return g.unless === guard && sameSize(this.#storage.graph, g.members[0], v);
  }

  #sharesLoopWithSibling(g: Group, v: ValueId, guard: ValueId | null): boolean {
    return this.#fits(g, v, guard) || (g.unless === guard && this.#isOnePerRow(v, g.members[0]));
  }

  /** Whether v has one number for each row of `wide`, both of one row operation (the mean of each normalised row). */
  #isOnePerRow(v: ValueId, wide: ValueId): boolean {
    const { graph, ops, producers } = this.#storage;
    const { shape } = graph.types[v],
      { shape: wideShape } = graph.types[wide];
    const lower = ops.get(producers[v]?.op ?? '')?.lower;
    return (
      producers[v] === producers[wide] &&
      lower?.kind === 'map' &&
      lower.passes !== undefined &&
      shape.length > 0 &&
      shape.length === wideShape.length - 1 &&
      shape.every((d, i) => sameDim(d, wideShape[i]))
    );
  }

  #guardOf(values: readonly ValueId[]): ValueId | null {
    const { home, uses } = this.#storage;
    return commonGuard(values, uses, (v) => this.#guards.get(home(v)));
  }

  // ---- what a kernel stores, and where ----

  /** Kernels store only what another kernel, an output or an update needs. */
  #keepNeededRoots(): void {
    const { home, uses } = this.#storage;
    const needed = new Set([
      ...uses.pinned,
      ...[...uses.pinned].map(home),
      ...this.#groups.flatMap((g) => [...g.reads].map(home)),
    ]);
    for (const g of this.#groups) if (!isClosed(g)) g.roots = g.members.filter((v) => needed.has(v));
  }

  /**
   * The kernel that makes the new value of a state may write it into the state's memory, after all kernels that read
   * the old value, if none of these needs the new one. Gives the values for which it does.
   */
  #overwriteStates(): Set<ValueId> {
    const done = new Set<ValueId>(),
      readersOf = this.#readersOf();
    for (const update of this.#storage.graph.updates) {
      const writer = this.#groupOf.get(update.value);
      if (!writer) continue;
      const readers = [...(readersOf.get(update.state) ?? [])].filter((g) => g !== writer);
      if (!this.#mayOverwrite(update, writer, readers)) continue;
      for (const g of readers) {
        writer.after.add(g);
        this.#runAfter(writer, g);
      }
      done.add(update.value);
    }
    return done;
  }

  #mayOverwrite({ state, value, unless }: Update, writer: Group, readers: readonly Group[]): boolean {
    const { home, memory } = this.#storage;
    /** Whether the op itself writes into the state's memory (Op.inPlaceOf): it then has no other place to write to. */
    const opWritesState = writer.kind === 'loops' && home(value) !== memory(value) && memory(value) === state;
    if (!this.#isOnlyUpdate(value) || (isClosed(writer) && !opWritesState)) return false;
    // Something else needs the value too: the kernel runs even where the update is skipped, and the state gets a copy.
    if (writer.unless !== unless) {
      if (opWritesState)
        throw new VerifyError(
          'lower',
          'an op that writes into a state has another guard than the update of that state',
        );
      return false;
    }
    // The kernel would read the old value through one buffer and write the new one through another.
    if (!opWritesState && !this.#storage.limits.inPlace) return false;
    if (!opWritesState && [...writer.readAtOtherIndices].some((leaf) => home(leaf) === state)) return false;
    if (readers.some((g) => this.#reaches(g, writer))) {
      if (opWritesState)
        throw new VerifyError('lower', 'the old value of a state is read after an op has written into that state');
      return false;
    }
    return true;
  }

  /** Whether one update and nothing else takes v out of the graph. */
  #isOnlyUpdate(v: ValueId): boolean {
    const { outputs, updates } = this.#storage.graph;
    return outputs.every((o) => o.value !== v) && updates.filter((u) => u.value === v).length === 1;
  }

  /** The groups that read a value. */
  #readersOf(): Map<ValueId, Set<Group>> {
    const readers = new Map<ValueId, Set<Group>>(),
      { home } = this.#storage;
    for (const g of this.#groups)
      for (const leaf of g.reads) readers.set(home(leaf), (readers.get(home(leaf)) ?? new Set()).add(g));
    return readers;
  }

  // ---- the order of kernels ----

  /** The group that computes what is in memory for v; undefined for inputs. */
  #makerOf(v: ValueId): Group | undefined {
    return this.#groupOf.get(this.#storage.home(v));
  }

  /** The groups that `g` directly follows. */
  #directlyBefore(g: Group): Group[] {
    const found = [...g.after];
    for (const leaf of g.reads) {
      const maker = this.#makerOf(leaf);
      if (maker !== undefined && maker !== g) found.push(maker);
    }
    return found;
  }

  /** Whether `from` is `to`, or must run after it. */
  #reaches(from: Group, to: Group): boolean {
    return from === to || this.#order.has(this.#numberOf(from), this.#numberOf(to));
  }

  #inOrder(inPlace: ReadonlySet<ValueId>): Ordered<Group> {
    const { graph, memory } = this.#storage;
    // Outputs have memory of their own, outside the arena. A value that is copied to its state at the end of the
    // program lives until then.
    const outputs = new Set(graph.outputs.map((o) => memory(o.value))),
      copied = new Set(graph.updates.flatMap((u) => (inPlace.has(u.value) ? [] : [memory(u.value)])));
    const exchanges = this.#exchanges;
    const inArena = (v: ValueId): boolean => this.#groupOf.has(v) && !outputs.has(v) && !inPlace.has(v);
    const tasks = this.#groups.map((g) => {
      const reads = [...new Set([...g.reads].map(memory))].filter(
        (v) => inArena(v) && !copied.has(v) && this.#groupOf.get(v) !== g,
      );
      return {
        of: g,
        before: this.#directlyBefore(g),
        makes: g.roots.filter((v) => inArena(v) && memory(v) === v),
        reads,
        overwrites: isClosed(g) ? [] : reads.filter((v) => !g.readAtOtherIndices.has(v)),
        ...(exchanges && { time: exchanges.timeOf(this.#storage, g), exchange: g.kind === 'collective' }),
      };
    });
    return orderTasks(tasks, (v) => byteSize(graph.types[v]), exchanges);
  }
}
