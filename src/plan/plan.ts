// From Lowered to Program: decides the memory offset of every value, and which steps may run at the same time.
import { byteSize } from '../base/shape.ts';
import { inPanels, type Graph, type ValueId } from '../graph/graph.ts';
import { groupsOf } from '../kernel/groups.ts';
import type { Call, KernelCall, Lowered } from '../lower/lowered.ts';
import { aligned, packArena, type Block } from './arena.ts';
import { overlap } from './overlap.ts';
import type { CollectiveStep, CopyStep, KernelStep, PlannedTensor, Port, Program, Slab, Step } from './program.ts';

/** calls: those of `lowered`, over ranks in another order (exchanges.ts). */
export function plan(lowered: Lowered, calls: readonly Call[] = lowered.calls): Program {
  const { graph, alias } = lowered;
  const home = (v: ValueId): ValueId => alias.get(v) ?? v;
  const writes = calls.map((c) =>
    c.kind === 'copy'
      ? [true, false]
      : c.kind === 'collective'
        ? c.writes
        : c.kernel.buffers.map((b) => b.access !== 'read'),
  );
  const reads = (c: Call): ValueId[] => [...c.buffers, ...(c.unless === null ? [] : [c.unless])].map(home);

  const life = new Map<ValueId, { first: number; last: number }>();
  calls.forEach((c, step) =>
    reads(c).forEach((v) => {
      const seen = life.get(v);
      if (seen) seen.last = step;
      else life.set(v, { first: step, last: step });
    }),
  );
  // The row lists of a grouped product stay in memory while the next product runs: a schedule may then run both group
  // by group, wherever the result lies.
  calls.forEach((c, step) => {
    if (!isGrouped(c) || !isGrouped(calls[step + 1])) return;
    for (const v of reads(c))
      if (graph.types[v].dtype === 'int32')
        life.set(v, { first: life.get(v)?.first ?? step, last: Math.max(life.get(v)?.last ?? step, step + 1) });
  });

  const stateOf = new Map(
    graph.updates.filter((u) => lowered.inPlaceUpdates.has(u.value)).map((u) => [u.value, u.state]),
  );
  const kinds = new Map(graph.inputs.map((i) => [i.value, i]));
  const io = new Set([
    ...graph.inputs.filter((i) => i.kind === 'input').map((i) => i.value),
    ...graph.outputs.map((o) => home(o.value)),
  ]);
  const slabOf = (v: ValueId): Slab => {
    const input = kinds.get(v);
    if (input?.kind === 'state' || stateOf.has(v)) return 'state';
    return input?.kind === 'constant' ? 'constants' : io.has(v) ? 'io' : 'arena';
  };

  const placed = inPanels(graph),
    { panels } = lowered.storage.limits;
  const bytesOf = (v: ValueId): number =>
    panels && placed.has(v) ? panels.bytes(graph.types[v]) : byteSize(graph.types[v]);

  const blocks = assignBlocks();
  const arena = packArena([...new Set(blocks.values())]);
  const tensors: PlannedTensor[] = [],
    indexOf = new Map<ValueId, number>();
  const fill: Record<'io' | 'constants', number> = { io: 0, constants: 0 };
  for (const v of new Set([...life.keys(), ...io, ...kinds.keys()])) {
    const slab = slabOf(v),
      bytes = bytesOf(v),
      { first, last } = life.get(v) ?? { first: -1, last: -1 };
    let offset = 0;
    if (slab === 'arena') offset = blocks.get(v)?.offset ?? 0;
    else if (slab !== 'state') {
      offset = fill[slab];
      fill[slab] += aligned(bytes);
    }
    const name = kinds.get(stateOf.get(v) ?? v)?.name ?? `%${v}`;
    indexOf.set(v, tensors.push({ id: v, name, type: graph.types[v], slab, offset, bytes, first, last }) - 1);
  }
  const index = (v: ValueId): number => indexOf.get(home(v)) ?? -1;
  const port = (name: string, v: ValueId): Port => ({ name, tensor: index(v), type: graph.types[v] });
  const ports = (kind: string): Port[] => graph.inputs.filter((i) => i.kind === kind).map((i) => port(i.name, i.value));

  return {
    tensors,
    steps: orderSteps(),
    slabs: { arena, ...fill },
    inputs: ports('input'),
    states: graph.inputs.flatMap((i) =>
      i.kind === 'state' ? [{ ...port(i.name, i.value), role: i.role, layout: i.layout }] : [],
    ),
    outputs: graph.outputs.map((o) => ({ ...port(o.name, o.value), ...countedBy(graph, o.value) })),
    constants: graph.inputs.flatMap((i) =>
      i.kind === 'constant' && i.data
        ? [{ tensor: index(i.value), dtype: graph.types[i.value].dtype, data: Array.from(i.data) }]
        : [],
    ),
  };

  /**
   * A value may reuse the memory of an operand if the kernel that computes the value is the operand's last reader and
   * works element by element (`inPlace`).
   */
  function assignBlocks(): Map<ValueId, Block> {
    const made = new Map<ValueId, Block>();
    calls.forEach((c, step) => {
      const taken = new Set<Block>();
      c.buffers.map(home).forEach((v, b) => {
        if (slabOf(v) !== 'arena' || !writes[step][b] || made.has(v)) return;
        const bytes = byteSize(graph.types[v]),
          own = life.get(v) ?? { first: step, last: step };
        const reuse = (c.kind === 'kernel' ? c.inPlace : [])
          .map(([out, input]) => (out === b ? home(c.buffers[input]) : -1))
          .find((r) => {
            const block = made.get(r);
            return (
              block !== undefined &&
              !taken.has(block) &&
              block.bytes === bytes &&
              life.get(r)?.last === step &&
              block.last === step
            );
          });
        const block = reuse === undefined ? undefined : made.get(reuse);
        if (block) {
          block.last = own.last;
          made.set(v, block);
          taken.add(block);
        } else made.set(v, { bytes, first: own.first, last: own.last, offset: 0 });
      });
    });
    return made;
  }

  /** Consecutive steps that share no memory to which one of them writes form a wave: they may run at the same time. */
  function orderSteps(): Step[] {
    let wave: Step[] = [];
    return calls.map((c, i): Step => {
      const step: Step = {
        ...kindOf(c, calls),
        buffers: c.buffers.map(index),
        writes: writes[i],
        barrier: false,
        unless: c.unless === null ? null : index(c.unless),
        ops: c.ops,
        scope: c.scope,
        flops: c.flops,
        ...(c.buffers.some((v, b) => writes[i][b] && home(v) !== v) && { readsDestination: true }),
      };
      const alone = (s: Step): boolean => s.kind === 'collective',
        barrier = (i > 0 && alone(step)) || wave.some((other) => alone(other) || conflict(tensors, other, step));
      if (barrier) wave = [];
      wave.push(step);
      return { ...step, barrier };
    });
  }
}

/** What a call runs. */
function kindOf(
  c: Call,
  calls: readonly Call[],
): Pick<KernelStep, 'kind' | 'kernel' | 'ints' | 'bySlot'> | Pick<CopyStep, 'kind'> | OwnCollective {
  if (c.kind === 'kernel') return { kind: c.kind, kernel: c.key, ints: c.ints, ...bySlotOf(c, calls) };
  if (c.kind === 'copy') return { kind: c.kind };
  const { kind, collective, ints, phase, begunBy, slots } = c;
  return {
    kind,
    collective,
    ints,
    ...(phase && { phase }),
    ...(begunBy && { begunBy: calls.indexOf(begunBy) }),
    ...(slots && { slots }),
  };
}
type OwnCollective = Pick<CollectiveStep, 'kind' | 'collective' | 'ints' | 'phase' | 'begunBy' | 'slots'>;

function bySlotOf({ kernel, bySlot }: KernelCall, calls: readonly Call[]): Pick<KernelStep, 'bySlot'> {
  if (!bySlot) return {};
  const { begin, slots } = bySlot,
    groups = groupsOf(kernel)?.groups ?? 0;
  return { bySlot: { exchange: calls.indexOf(begin), slots, groups } };
}

const isGrouped = (c: Call | undefined): boolean => c?.kind === 'kernel' && groupsOf(c.kernel) !== null;

/** Whether two steps touch the same bytes, at least one of them writing. */
export function conflict(tensors: readonly PlannedTensor[], a: Step, b: Step): boolean {
  return writesMemoryOf(tensors, a, b) || writesMemoryOf(tensors, b, a);
}

/** Whether `a` writes bytes that `b` reads or writes. */
function writesMemoryOf(tensors: readonly PlannedTensor[], a: Step, b: Step): boolean {
  return a.buffers.some(
    (t, i) =>
      a.writes[i] &&
      ((b.unless !== null && overlap(tensors[t], tensors[b.unless])) ||
        b.buffers.some((u) => overlap(tensors[t], tensors[u]))),
  );
}

/** Which input counts the rows of a value, if one does. */
function countedBy(graph: Graph, v: ValueId): Pick<Port, 'rows'> {
  const [dim = 0] = graph.types[v].shape;
  if (typeof dim === 'number') return {};
  const count = dim.kind === 'bounded' ? dim.count : dim.offsets,
    clamp = graph.nodes.find((n) => n.op === 'clampCount' && n.outputs[0] === count),
    input = graph.inputs.find((i) => i.kind === 'input' && i.value === (clamp?.inputs[0] ?? count));
  return input ? { rows: { input: input.name, at: dim.kind === 'bounded' ? 0 : dim.segments } } : {};
}
