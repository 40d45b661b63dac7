// A training run over ranks: what the ranks of a run agree on. Rank 0 has the run folder and the loggers; the others
// take the same steps and give it their parts of checkpoints. Without ranks, every answer is this process's own.
import type { RunFolder } from '../io/run-folder.ts';
import type { CheckpointContent } from '../io/checkpoint.ts';
import { gatherNumbers, type RankCounters, type Ranks } from '../device/ranks.ts';
import { agreed, writeOverRanks } from '../session/ranks.ts';

/** What each rank did in a step, by rank: time in ms, of that waiting for other ranks, and bytes sent. */
export interface RankTimes {
  readonly ms: readonly number[];
  readonly waited_ms: readonly number[];
  readonly sent: readonly number[];
}

const NONE: RankCounters = { sent: 0, waitedMs: 0, exchanges: 0 };

export class RunRanks {
  readonly ranks: Ranks | null;
  readonly #stop: AbortSignal | undefined;
  /** Whether any rank was asked to stop when the ranks last told each other. */
  #stops = false;
  #before = NONE;

  constructor(ranks: Ranks | null, stop?: AbortSignal) {
    this.ranks = ranks;
    this.#stop = stop;
  }

  /** Whether this process has the run folder. */
  get leads(): boolean {
    return (this.ranks?.rank ?? 0) === 0;
  }

  /** Whether the run should stop, as far as all ranks know. */
  get stopping(): boolean {
    return this.ranks ? this.#stops : this.#stop?.aborted === true;
  }

  /** Whether the run should stop: asks all ranks. Every rank calls it. */
  asksToStop(): boolean {
    if (this.ranks) this.#round([0]);
    return this.stopping;
  }

  /** Numbers of every rank, and whether one of them should stop. */
  #round(own: readonly number[]): Float64Array[] {
    const all = this.ranks ? gatherNumbers(this.ranks, [this.#stop?.aborted ? 1 : 0, ...own]) : [];
    this.#stops ||= all.some(([stops]) => stops === 1);
    return all.map((numbers) => numbers.subarray(1));
  }

  /**
   * After a step of `ms`: what each rank did, and whether a checkpoint is due, which rank 0 decides. null: no ranks.
   */
  afterStep(ms: number, save: boolean): { readonly times: RankTimes; readonly save: boolean } | null {
    if (!this.ranks) return null;
    const { counters } = this.ranks,
      { sent, waitedMs } = this.#before,
      all = this.#round([ms, counters.waitedMs - waitedMs, counters.sent - sent, save ? 1 : 0]),
      of = (at: number): number[] => all.map((numbers) => Math.round(1000 * numbers[at]) / 1000);
    this.#before = this.ranks.counters;
    return { times: { ms: of(0), waited_ms: of(1), sent: of(2) }, save: all[0][3] === 1 };
  }

  /** Rank 0's answer. Every rank calls it. */
  decided(own: boolean): boolean {
    return this.ranks ? this.ranks.broadcast(0, Uint8Array.of(own ? 1 : 0))[0] === 1 : own;
  }

  /** The largest of each number over all ranks. Every rank calls it. */
  largest<K extends string>(own: Readonly<Record<K, number>>): Readonly<Record<K, number>> {
    const names = Object.keys(own) as K[],
      all =
        this.ranks &&
        gatherNumbers(
          this.ranks,
          names.map((name) => own[name]),
        );
    if (!all) return own;
    return Object.fromEntries(names.map((name, i) => [name, Math.max(...all.map((n) => n[i]))])) as Record<K, number>;
  }

  /** Does work that can fail on this rank alone: then it fails on all of them. */
  agreed<T>(work: () => Promise<T>): Promise<T> {
    return agreed(this.ranks, work);
  }

  /** Throws RanksError unless all ranks have the same text. */
  same(what: string, text: string): void {
    this.ranks?.same(what, text);
  }

  /** Opens the run folder on rank 0; the others get one that stands for it. */
  async openRun(open: () => Promise<RunFolder>): Promise<RunFolder> {
    const { ranks } = this;
    if (!ranks) return open();
    const run = await this.agreed(async () => (this.leads ? open() : null)),
      text = fromRank0(ranks, () => JSON.stringify(run && pick(run)));
    return run ?? elsewhere(JSON.parse(text) as Picked);
  }

  /** Writes a checkpoint of all ranks to the run folder. Gives its path. */
  async save(run: RunFolder, content: CheckpointContent, as: 'save' | 'saveBest' = 'save'): Promise<string> {
    if (!this.ranks) return run[as](content);
    return (await writeOverRanks(this.ranks, content, (own) => run[as](own))) ?? run.path;
  }
}

/** The text of rank 0, on every rank. */
export const fromRank0 = (ranks: Ranks | null, text: () => string): string =>
  ranks
    ? new TextDecoder().decode(ranks.broadcast(0, new TextEncoder().encode(ranks.rank === 0 ? text() : '')))
    : text();

type Picked = Pick<RunFolder, 'path' | 'settings' | 'checkpoint'>;
const pick = ({ path, settings, checkpoint }: RunFolder): Picked => ({ path, settings, checkpoint });

/** The run folder of rank 0, for the other ranks: they write nothing to it. */
const elsewhere = ({ path, settings, checkpoint }: Picked): RunFolder => ({
  path,
  settings,
  checkpoint,
  damaged: [],
  append: () => undefined,
  keep: () => Promise.resolve(false),
  save: () => Promise.reject(new Error('only rank 0 writes checkpoints')),
  saveBest: () => Promise.reject(new Error('only rank 0 writes checkpoints')),
  close: () => Promise.resolve(),
});
