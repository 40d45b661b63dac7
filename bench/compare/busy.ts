// Measures how many cores other processes use. In: the content of /proc at two moments. Out: cores, and the processes
// that use them. Figures from a busy machine are useless, so they are refused above LIMIT.
import { readdirSync, readFileSync } from 'node:fs';

/** The number of cores that other processes may use. */
export const LIMIT = 0.1;
const TICKS = 100; // a second; USER_HZ is 100 on Linux whatever the kernel's own clock

export interface Process {
  readonly name: string;
  readonly parent: number;
  readonly ticks: number;
  /** Ticks of its children that have ended. */
  readonly reaped: number;
}

export interface Snapshot {
  /** Milliseconds. */
  readonly at: number;
  /**
   * Ticks in which cores were not idle, including ticks that other virtual machines on the same hardware used (steal).
   */
  readonly busy: number;
  readonly processes: ReadonlyMap<number, Process>;
}

export interface Others {
  readonly cores: number;
  readonly worst: readonly { readonly pid: number; readonly name: string; readonly cores: number }[];
}

/**
 * The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, guest (which user includes), ..
 */
export function parseStat(text: string): number {
  const [user, nice, system, , , irq = 0, softirq = 0, steal = 0] = (/^cpu +(.*)$/m.exec(text)?.[1] ?? '')
    .split(' ')
    .map(Number);
  return user + nice + system + irq + softirq + steal;
}

/**
 * /proc/PID/stat: `pid (name) state ppid .. utime stime cutime cstime ..`; the name may hold anything, parentheses too.
 */
export function parseProcess(text: string): Process {
  const open = text.indexOf('('),
    close = text.lastIndexOf(')'),
    field = text
      .slice(close + 2)
      .split(' ')
      .map(Number);
  return {
    name: text.slice(open + 1, close),
    parent: field[1],
    ticks: field[11] + field[12],
    reaped: field[13] + field[14],
  };
}

/** The process `root` and all its descendants. */
export function family(root: number, processes: ReadonlyMap<number, Process>): Set<number> {
  const own = new Set([root]);
  for (let grown = true; grown;) {
    grown = false;
    for (const [pid, { parent }] of processes)
      if (own.has(parent) && !own.has(pid)) {
        own.add(pid);
        grown = true;
      }
  }
  return own;
}

/**
 * The cores that processes other than `root` and its descendants used between two moments. `cores` includes short-lived
 * processes, which have no name in the list.
 */
export function othersBetween(before: Snapshot, after: Snapshot, root: number): Others {
  const ticks = Math.max(1, ((after.at - before.at) / 1000) * TICKS);
  const own = (s: Snapshot): Set<number> => family(root, s.processes),
    mine = new Set([...own(before), ...own(after)]);
  const total = (s: Snapshot): number =>
    [...own(s)].reduce((n, pid) => {
      const p = s.processes.get(pid);
      return n + (p ? p.ticks + p.reaped : 0);
    }, 0);
  const worst = [...after.processes]
    .filter(([pid]) => !mine.has(pid))
    .map(([pid, p]) => ({ pid, name: p.name, cores: (p.ticks - (before.processes.get(pid)?.ticks ?? 0)) / ticks }))
    .filter(({ cores }) => cores >= 0.01)
    .sort((a, b) => b.cores - a.cores);
  return {
    cores: Math.max(0, after.busy - before.busy - (total(after) - total(before))) / ticks,
    worst: worst.slice(0, 5),
  };
}

/** The reason why figures are refused; null if they are not. */
export function refusal({ cores, worst }: Others): string | null {
  if (cores <= LIMIT) return null;
  const who = worst.map((w) => `${w.name} (${w.pid}) ${w.cores.toFixed(2)}`).join(', ');
  return (
    `other work took ${cores.toFixed(2)} cores, more than ${LIMIT}: ` +
    `${who || 'processes that cannot be seen from here, or have ended'}`
  );
}

export function snapshot(): Snapshot {
  const processes = new Map<number, Process>(),
    at = performance.now(),
    busy = parseStat(readFileSync('/proc/stat', 'utf8'));
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      processes.set(Number(entry), parseProcess(readFileSync(`/proc/${entry}/stat`, 'utf8')));
    } catch {
      // The process ended between the two calls.
    }
  }
  return { at, busy, processes };
}
