// One comparison. Every contestant has a fresh process, which stays alive while all take turns (A B C, C B A, ...), so
// that a drift of the machine's speed affects all alike. Between its turns, a process waits for its next line of input.
import { othersBetween, refusal, snapshot, type Others } from './busy.ts';
import { Peer, type Answer } from './protocol.ts';
import { runnerOf } from './runners.ts';
import { median } from '../../src/observe/quantile.ts';
import type { Entry } from './table.ts';
import type { Comparison, Contestant } from './works.ts';

export interface ContestOptions {
  readonly rounds: number;
  /** Approximate duration of a turn. */
  readonly seconds: number;
  readonly threads: number;
  /** Continue although other work uses more cores than allowed. */
  readonly evenIfBusy: boolean;
  readonly say: (line: string) => void;
}

export interface Contest {
  readonly entries: readonly Entry[];
  readonly peak: number | null;
  readonly others: Others;
  readonly busy: string | null;
}

export class BusyError extends Error {}

interface Player {
  readonly who: Contestant;
  readonly peer: Peer | null;
  readonly rounds: number[][];
  steps: number;
  rss: number | null;
  loss: number | null;
  version: string | null;
  problem: string | null;
}

const WARM_UP = 3;

export async function contest(
  { contestants, work }: Comparison,
  { rounds, seconds, threads, evenIfBusy, say }: ContestOptions,
): Promise<Contest> {
  const players: Player[] = [],
    peaks: number[] = [];
  try {
    for (const who of contestants) {
      const player = await enter(who);
      // The same model in another checkout does the same number of steps, so that losses can be compared.
      if (who.folder !== undefined && players[0]) player.steps = players[0].steps;
      players.push(player);
    }
    const before = snapshot();
    let others: Others = { cores: 0, worst: [] };
    for (let round = 0; round < rounds; round++) {
      // Every other round has the reverse order, so that a contestant does not always follow the same one.
      for (const p of round % 2 === 0 ? players : [...players].reverse()) {
        if (!p.peer || p.problem !== null) continue;
        const answer = await p.peer.ask({ do: 'run', steps: p.steps });
        if (note(p, answer) && answer.ms) p.rounds.push([...answer.ms]);
      }
      const gflops = players[0].problem === null ? (await players[0].peer?.ask({ do: 'peak' }))?.gflops : null;
      if (typeof gflops === 'number') peaks.push(gflops);
      others = othersBetween(before, snapshot(), process.pid);
      const why = refusal(others);
      if (why !== null && !evenIfBusy) throw new BusyError(why);
      say(`  round ${round + 1} of ${rounds}${why === null ? '' : `; ${why}`}`);
    }
    const entries = players.map((p): Entry => ({
      name: p.who.name,
      rounds: p.problem === null ? p.rounds : [],
      rss: p.rss,
      loss: p.loss,
      version: p.version,
      problem: p.problem,
    }));
    return { entries, peak: peaks.length > 0 ? median(peaks) : null, others, busy: refusal(others) };
  } finally {
    for (const p of players) p.peer?.close();
  }

  async function enter(who: Contestant): Promise<Player> {
    const command = runnerOf(who),
      peer = 'missing' in command ? null : new Peer(command);
    const player: Player = {
      who,
      peer,
      rounds: [],
      steps: 1,
      rss: null,
      loss: null,
      version: null,
      problem: 'missing' in command ? command.missing : null,
    };
    if (!peer) return player;
    const opened = await peer.ask({ do: 'open', style: who.style, work, threads });
    player.version = opened.version ?? null;
    if (!note(player, opened)) return player;
    const warm = await peer.ask({ do: 'run', steps: WARM_UP });
    if (note(player, warm) && warm.ms)
      player.steps = Math.max(2, Math.min(1000, Math.round((1000 * seconds) / warm.ms[warm.ms.length - 1])));
    say(`  ${who.name}: ${player.problem ?? `${player.steps} steps a turn`}`);
    return player;
  }
}

/** Stores the parts of an answer other than times. Returns false if the answer says that the contestant cannot run. */
function note(player: Player, { missing, error, rss, loss }: Answer): boolean {
  if (loss !== undefined) player.loss = loss;
  if (rss !== undefined) player.rss = rss;
  player.problem ??= missing ?? error ?? null;
  return player.problem === null;
}
