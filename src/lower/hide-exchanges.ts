// The order of kernels over ranks: what does not need the result of an exchange runs while its messages are on their
// way. In: kernels and exchanges in an order that keeps memory small. Out: another order, or the same.
//
// The order is that of a simulation. It runs the kernels one after the other, and beside them the exchanges. Of the
// kernels that could run now, it takes the one after which the most time of exchanges follows: a gradient of tokens
// runs before a gradient of weights, which then runs during the exchange of the former. Only the order is taken from
// the simulation; its times need not be right. With a faster network, the waits simply end at once.
import type { Task } from './task.ts';

/** How many places a kernel may run before its own. More hides more, but memory is needed for longer. */
const AHEAD = [Infinity, 64, 16];
/** The most that the peak of memory may grow, as a share. */
const GROWS = 0.2;

export function hideExchanges<K>(
  order: readonly Task<K>[],
  peakOf: (order: readonly Task<K>[]) => number,
): readonly Task<K>[] {
  if (order.every((t) => !t.exchange)) return order;
  const most = (1 + GROWS) * peakOf(order);
  for (const ahead of AHEAD) {
    const found = simulate(order, ahead);
    if (peakOf(holding(found)) <= most) return found;
  }
  return order;
}

/** The same tasks: what an exchange reads is held in memory until its result is read. */
function holding<K>(order: readonly Task<K>[]): Task<K>[] {
  const open = new Map<K, Task<K>>();
  return order.map((t) => {
    const ended = t.before.flatMap((k) => open.get(k) ?? []);
    for (const { of } of ended) open.delete(of);
    if (t.exchange) open.set(t.of, t);
    return ended.length > 0 ? { ...t, reads: [...new Set([...t.reads, ...ended.flatMap((e) => e.reads)])] } : t;
  });
}

function simulate<K>(order: readonly Task<K>[], ahead: number): Task<K>[] {
  const place = new Map(order.map((t, i) => [t.of, i])),
    before = order.map((t) => [...new Set(t.before)].flatMap((k) => place.get(k) ?? [])),
    waits = before.map((b) => b.length),
    followers = order.map((): number[] => []),
    exchanges = exchangesAfter(order, before);
  before.forEach((b, i) => {
    for (const k of b) followers[k].push(i);
  });
  /** When what a task needs is there: ns. */
  const ready = order.map(() => 0),
    done = new Set<number>(),
    result: Task<K>[] = [];
  const could = order.map((_, i) => i).filter((i) => waits[i] === 0);
  let now = 0,
    network = 0,
    first = 0;
  while (result.length < order.length) {
    while (done.has(first)) first++;
    const start = (i: number): number => Math.max(now, ready[i]),
      next = could
        .filter((i) => i <= first + ahead)
        .reduce((a, b) => ((start(b) - start(a) || exchanges[a] - exchanges[b] || b - a) < 0 ? b : a)),
      { time = 0, exchange = false } = order[next];
    now = start(next);
    const end = (exchange ? Math.max(network, now) : now) + time;
    if (exchange) network = end;
    else now = end;
    done.add(next);
    result.push(order[next]);
    could.splice(could.indexOf(next), 1);
    for (const i of followers[next]) {
      ready[i] = Math.max(ready[i], end);
      if (--waits[i] === 0) could.push(i);
    }
  }
  return result;
}

/** For each task, the most time of exchanges that must follow one after the other, its own included. */
function exchangesAfter<K>(order: readonly Task<K>[], before: readonly (readonly number[])[]): number[] {
  const longest = order.map(({ exchange, time = 0 }) => (exchange ? time : 0)),
    own = [...longest];
  for (let i = order.length - 1; i >= 0; i--)
    for (const b of before[i]) longest[b] = Math.max(longest[b], own[b] + longest[i]);
  return longest;
}
