// Exchanges that go on while other steps run. A collective becomes two calls. The first begins the exchange, as soon as
// its operands are there; the second waits for it, before the first call that needs it done. Both have the buffers of
// the collective, so that its memory is kept from one to the other. If little is computed between the two, one call
// remains. In: the calls in their order. Out: the same with the calls of collectives moved.
import { byteSize } from '../base/shape.ts';
import type { Call, CollectiveCall, Lowered } from '../lower/lowered.ts';
import { runBySlot } from './by-slot.ts';
import { memoryOf } from './memory-of.ts';

/** To begin an exchange and to wait for it takes another thread's time. It must save more: ns of other calls. */
const SAVES = 200_000;
/** What calls take, roughly: ns. */
const FLOP = 0.01,
  BYTE = 0.1;

export function divideExchanges(lowered: Lowered): readonly Call[] {
  const { calls, graph } = lowered;
  if (calls.every((c) => c.kind !== 'collective')) return calls;
  const { conflict } = memoryOf(lowered);
  const result: Call[] = [],
    open = new Set<CollectiveCall>();
  const timeOf = (c: Call): number =>
    c.kind === 'collective' ? 0 : FLOP * c.flops + BYTE * c.buffers.reduce((n, v) => n + byteSize(graph.types[v]), 0);
  const wait = (c: CollectiveCall): void => {
    open.delete(c);
    const at = result.indexOf(c),
      between = result.slice(at + 1),
      { phase: _, ...whole } = c;
    if (between.reduce((ns, other) => ns + timeOf(other), 0) >= SAVES) result.push({ ...c, phase: 'wait', begunBy: c });
    else if (between.some(isRelay))
      result[at] = whole; // no exchange begins between the phases of a relay
    else {
      result.splice(at, 1);
      result.push(whole);
    }
  };
  for (const call of calls) {
    for (const c of open) if (conflict(c, call)) wait(c);
    if (call.kind !== 'collective' || isRelay(call)) {
      result.push(call);
      continue;
    }
    const begin: CollectiveCall = { ...call, phase: 'begin' };
    let at = result.length;
    while (at > 0 && result[at - 1].kind !== 'collective' && !conflict(begin, result[at - 1])) at--;
    result.splice(at, 0, begin);
    open.add(begin);
  }
  for (const c of open) wait(c);
  return runBySlot(lowered, result);
}

const isRelay = (c: Call): boolean => c.kind === 'collective' && c.collective === 'relay';
