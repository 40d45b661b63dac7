// The largest number of experts that each contestant trains within a memory budget. Every number is tried in a fresh
// process, whose memory is measured. Memory is nearly linear in the number of experts, so a few tries are enough.
import { titleLines } from './markdown.ts';
import { runnerOf } from './runners.ts';
import { Peer } from './protocol.ts';
import type { Capacity, Contestant } from './works.ts';

/** The largest number that fitted, the smallest that did not, and the bytes of the first. */
export interface Fit {
  readonly experts: number;
  readonly tooMany: number | null;
  readonly bytes: number;
}

const STEPS = 3,
  TRIES = 12;

/** Finds the limit to within 1%. `bytesOf` rises with n; it gives null if n did not run. */
export async function largestWithin(
  budget: number,
  least: number,
  bytesOf: (n: number) => Promise<number | null>,
): Promise<Fit | null> {
  const seen = new Map<number, number | null>();
  const look = async (n: number): Promise<number | null> => {
    const found = seen.has(n) ? (seen.get(n) ?? null) : await bytesOf(n);
    seen.set(n, found);
    return found;
  };
  const first = await look(least);
  if (first === null || first > budget) return null;
  let good = { n: least, bytes: first },
    bad: { n: number; bytes: number | null } | null = null,
    next = 8 * least;
  for (let i = 0; i < TRIES && (bad === null || bad.n - good.n > Math.max(1, good.n / 100)); i++) {
    const bytes = await look(next),
      before = good;
    if (bytes !== null && bytes <= budget) good = { n: next, bytes };
    else bad = { n: next, bytes };
    // The point where the line through the last two measurements meets the budget, within the known bounds.
    const other = bad !== null && bad.bytes !== null ? { n: bad.n, bytes: bad.bytes } : before,
      slope = (good.bytes - other.bytes) / (good.n - other.n);
    const guess = slope > 0 ? Math.floor(good.n + (budget - good.bytes) / slope) : 2 * good.n;
    if (bad === null) next = Math.max(good.n + 1, Math.min(4 * good.n, guess + 1));
    else next = Math.max(good.n + 1, Math.min(bad.n - 1, guess === good.n ? good.n + 1 : guess));
  }
  return { experts: good.n, tooMany: bad?.n ?? null, bytes: good.bytes };
}

export interface CapacityEntry {
  readonly who: Contestant;
  readonly fit: Fit | null;
  readonly problem: string | null;
}

export async function capacity(
  { work, budget, contestants }: Capacity,
  { threads, say }: { readonly threads: number; readonly say: (line: string) => void },
): Promise<CapacityEntry[]> {
  const entries: CapacityEntry[] = [];
  for (const who of contestants) {
    const command = runnerOf(who);
    if ('missing' in command) {
      entries.push({ who, fit: null, problem: command.missing });
      continue;
    }
    let problem: string | null = null;
    const fit = await largestWithin(budget, work.topK ?? 1, async (experts) => {
      const peer = new Peer(command);
      try {
        const opened = await peer.ask({ do: 'open', style: who.style, work: { ...work, experts }, threads });
        const ran = (opened.missing ?? opened.error) ? opened : await peer.ask({ do: 'run', steps: STEPS });
        problem = ran.missing ?? ran.error ?? null;
        say(`  ${who.name}: ${experts} experts: ${problem ?? `${((ran.rss ?? 0) / 1e6).toFixed(0)} MB`}`);
        return problem === null ? (ran.rss ?? null) : null;
      } finally {
        peer.close();
      }
    });
    entries.push({ who, fit, problem: fit ? null : (problem ?? `not even ${work.topK} experts`) });
  }
  return entries;
}

export function capacityTable(
  { title, budget }: Pick<Capacity, 'title' | 'budget'>,
  entries: readonly CapacityEntry[],
): string {
  const ours = entries[0].fit?.experts,
    f = (n: number): string => n.toFixed(2);
  return [
    ...titleLines(title),
    `Memory above what a process has with its libraries loaded; at most ${budget / 2 ** 20} MiB.`,
    '',
    '|  | experts | too many | memory, MB | ours over it |',
    '| --- | ---: | ---: | ---: | ---: |',
    ...entries
      .filter((e) => e.fit)
      .map(
        ({ who, fit }) =>
          `| ${who.name} | ${fit?.experts} | ${fit?.tooMany ?? ''} ` +
          `| ${((fit?.bytes ?? 0) / 1e6).toFixed(0)} | ${ours && fit ? `**${f(ours / fit.experts)}**` : ''} |`,
      ),
    ...entries.filter((e) => !e.fit).flatMap(({ who, problem }) => ['', `Not run: ${who.name}: ${problem}.`]),
    '',
  ].join('\n');
}
