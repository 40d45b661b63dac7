// dynamoe bench ranks: what a training step over ranks costs beside the same work on one rank. It is started by
// mpirun; all ranks take part. A model with one mixture-of-experts layer between two dense ones is trained on random
// data. `weak`: all ranks with a batch of ranks times the tokens, against each rank with a model of its own and its
// tokens, at the same time. `strong`: all ranks together, against one process with as many threads. The kinds of steps
// alternate, so that a change of the machine's speed meets all of them.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { bytes, table } from '../base/format.ts';
import { UserError } from '../base/errors.ts';
import { Stream } from '../base/random.ts';
import type { Batch } from '../base/tensor.ts';
import { openRanks } from '../device/native/mpi.ts';
import { gatherNumbers, type Ranks } from '../device/ranks.ts';
import type { Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { Linear } from '../nn/linear.ts';
import { meanSquaredError } from '../nn/loss.ts';
import { MoE } from '../nn/moe/moe.ts';
import { median } from '../observe/quantile.ts';
import { adamW } from '../optim/adam.ts';
import { compile } from '../session/node.ts';
import type { Session } from '../session/session.ts';
import { call } from '../trace/trace.ts';
import { spread, type Spread } from './layer.ts';
import { skewedBias, SkewedRouter } from './skewed-router.ts';

export interface RanksFlags {
  readonly tokens: number;
  readonly width: number;
  readonly hidden: number;
  readonly experts: number;
  readonly topK: number;
  readonly threads: number;
  readonly rounds: number;
  /** The router's bias for expert e is -skew ln(e + 1), and its weights are not trained; 0: a trained router. */
  readonly skew: number;
  /** Experts are dealt to ranks in the order of their loads, back and forth, instead of in their own order. */
  readonly dealt?: boolean;
  readonly strong?: boolean;
  /** A network interface of each rank, whose bytes are counted. */
  readonly interface?: string;
  readonly json?: boolean;
}

export interface RanksResult {
  readonly event: 'ranks';
  readonly ranks: number;
  readonly library: string;
  readonly kind: 'weak' | 'strong';
  /** Tokens of all ranks together in one step. */
  readonly tokens: number;
  readonly alone_ms: Spread;
  readonly ranks_ms: Spread;
  /** The median over rounds of alone / ranks. */
  readonly efficiency: number;
  /** Tokens of each expert in the last step over ranks. */
  readonly load: readonly number[];
  /** The share of these tokens that each rank computes. */
  readonly shares: readonly number[];
  /** Sent by each rank in a step, as the ranks count. */
  readonly sent_bytes: readonly number[];
  /** What the interface of each rank carried of them in a step, without headers of Ethernet, IP and TCP. */
  readonly carried_bytes: readonly number[] | null;
  /** In a step, of each rank. */
  readonly waited_ms: readonly number[];
  /** The shortest time in which each rank sends 4 MiB to each other one. */
  readonly link_ms: number;
}

class Net {
  readonly first: Linear;
  readonly moe: MoE;
  readonly last: Linear;
  constructor({ width, hidden, experts, topK, skew }: RanksFlags) {
    const router = skew > 0 && new SkewedRouter({ dModel: width, experts });
    this.first = new Linear(width, width);
    this.moe = new MoE({
      dModel: width,
      experts,
      topK,
      hidden,
      balance: 0.01,
      zLoss: 0.001,
      ...(router && { router }),
    });
    this.last = new Linear(width, width);
  }
  forward(x: Tensor): Tensor {
    const h = call(this.first, x);
    return call(this.last, add(h, call(this.moe, h)));
  }
}

/** Random inputs and targets: the same for all ranks. */
function batchOf(tokens: number, { width }: RanksFlags, key: string): Batch {
  const stream = new Stream(1, key),
    tensor = (part: number): Batch['x'] => ({
      dtype: 'float32',
      shape: [tokens, width],
      data: stream.normals(part, 1, new Float32Array(tokens * width)),
    });
  return { x: tensor(0), y: tensor(1) };
}

/** The expert in each slot, where expert 0 has the largest load. */
export function dealt(experts: number, ranks: number): number[] {
  const slots = Array.from({ length: ranks }, (): number[] => []);
  for (let e = 0; e < experts; e++) {
    const at = e % ranks;
    slots[Math.floor(e / ranks) % 2 === 0 ? at : ranks - 1 - at].push(e);
  }
  return slots.flat();
}

/** The expert in each slot. */
const slotsOf = ({ experts, dealt: deal }: RanksFlags, ranks: number): number[] =>
  deal ? dealt(experts, ranks) : Array.from({ length: experts }, (_, e) => e);

const open = (flags: RanksFlags, threads: number, ranks?: Ranks): Promise<Session> =>
  compile(new Net(flags), {
    device: 'native',
    threads,
    loss: meanSquaredError,
    optimizer: adamW({ lr: 1e-3, clip: 1 }),
    seed: 1,
    ...(ranks && { ranks, placement: { [flags.experts]: slotsOf(flags, ranks.size) } }),
  });

/** A kind of step, on the ranks that take part in it. */
interface Contender {
  readonly session: Session;
  readonly batch: Batch;
}

export async function benchRanks(flags: RanksFlags): Promise<void> {
  const ranks = await openRanks();
  if (!ranks)
    throw new UserError('bench ranks measures several ranks', 'start it with mpirun -n 2 dynamoe bench ranks');
  const { size, rank } = ranks,
    alone = flags.strong
      ? await (rank === 0 ? contender(flags, flags.tokens, flags.threads * size, 'all') : null)
      : await contender(flags, flags.tokens, flags.threads, `rank ${rank}`),
    tokens = flags.strong ? flags.tokens : flags.tokens * size,
    together = await contender(flags, tokens, flags.threads, 'all', ranks);
  const times = { alone: [] as number[], together: [] as number[] },
    link_ms = linkTime(ranks),
    before = { ...ranks.counters },
    carried = flags.interface === undefined ? null : carriedBy(flags.interface);
  let load: number[] = [];
  for (let round = 0; round < flags.rounds; round++) {
    times.alone.push((await timed(ranks, alone)).ms);
    const { ms, load: counted } = await timed(ranks, together);
    times.together.push(ms);
    load = counted;
  }
  const after = ranks.counters,
    ofAll = (total: number): number[] => gathered(ranks, total / flags.rounds),
    slots = slotsOf(flags, size);
  const result: RanksResult = {
    event: 'ranks',
    ranks: size,
    library: ranks.description,
    kind: flags.strong ? 'strong' : 'weak',
    tokens,
    alone_ms: spread(times.alone),
    ranks_ms: spread(times.together),
    efficiency: median(times.alone.map((ms, i) => ms / times.together[i])),
    load,
    shares: sharesOf(load, slots, size),
    carried_bytes: carried === null ? null : ofAll(carriedBy(flags.interface ?? '') - carried),
    sent_bytes: ofAll(after.sent - before.sent),
    waited_ms: ofAll(after.waitedMs - before.waitedMs),
    link_ms,
  };
  if (rank === 0) print(result, flags.json === true);
  await Promise.all([alone?.session.close(), together.session.close()]);
  ranks.close();
}

async function contender(
  flags: RanksFlags,
  tokens: number,
  threads: number,
  data: string,
  ranks?: Ranks,
): Promise<Contender> {
  const own = { session: await open(flags, threads, ranks), batch: batchOf(tokens, flags, data) };
  if (flags.skew > 0) {
    await own.session.prepare(own.batch);
    const { experts, skew } = flags;
    own.session.executor.setState('moe.router.bias', { dtype: 'float32', shape: [experts] }, skewedBias(experts, skew));
  }
  for (let i = 0; i < 2; i++) await own.session.step(own.batch); // compiles, and fills the caches
  return own;
}

/** The share of the loads that each rank computes: of all experts if ranks do not divide them. */
export function sharesOf(load: readonly number[], slots: readonly number[], ranks: number): number[] {
  const sum = (counts: readonly number[]): number => counts.reduce((a, b) => a + b, 0),
    each = slots.length / ranks;
  return Array.from({ length: ranks }, (_, rank) =>
    Number.isInteger(each)
      ? sum(slots.slice(rank * each, (rank + 1) * each).map((expert) => load[expert])) / sum(load)
      : 1,
  );
}

const LINK_BYTES = 1 << 22;

function linkTime(ranks: Ranks): number {
  const data = new Uint8Array(LINK_BYTES);
  let best = Infinity;
  for (let i = 0; i < 5; i++) {
    ranks.gather(new Uint8Array(0));
    const start = performance.now();
    ranks.gather(data);
    best = Math.min(best, performance.now() - start);
  }
  return Math.max(...gathered(ranks, best));
}

/** Ethernet 14, IPv4 20, TCP 20 with its time stamps 12. */
const HEADERS = 66;

/** Bytes that an interface has sent, without headers. */
function carriedBy(name: string): number {
  const read = (what: string): number => {
    const path = join('/sys/class/net', name, 'statistics', what);
    try {
      return Number(readFileSync(path, 'utf8'));
    } catch {
      throw new UserError(`${path} cannot be read`, '--interface is the name of a network interface of Linux');
    }
  };
  return read('tx_bytes') - HEADERS * read('tx_packets');
}

/** A number of each rank. */
const gathered = (ranks: Ranks, value: number): number[] => gatherNumbers(ranks, [value]).map(([own]) => own);

/** Milliseconds of the slowest rank, and the loads of this rank's step. All ranks begin at the same time. */
async function timed(ranks: Ranks, own: Contender | null): Promise<{ ms: number; load: number[] }> {
  ranks.gather(new Uint8Array(0));
  const start = performance.now(),
    result = await own?.session.step(own.batch),
    ms = own ? performance.now() - start : 0;
  return { ms: Math.max(...gathered(ranks, ms)), load: Array.from(result?.stats['moe/load'].data ?? [], Number) };
}

function print(r: RanksResult, json: boolean): void {
  if (json) {
    console.log(JSON.stringify(r));
    return;
  }
  const ms = ({ min, median: mid, max }: Spread): string =>
    `${mid.toFixed(1)} (${min.toFixed(1)} to ${max.toFixed(1)})`;
  const percent = (shares: readonly number[]): string => shares.map((s) => (100 * s).toFixed(1)).join(' ');
  console.log(
    table(
      ['ranks', 'scaling', 'tokens', 'alone, ms', 'ranks, ms', 'efficiency', 'shares, %', 'sent a step', 'carried'],
      [
        [
          `${r.ranks}`,
          r.kind,
          `${r.tokens}`,
          ms(r.alone_ms),
          ms(r.ranks_ms),
          r.efficiency.toFixed(3),
          percent(r.shares),
          r.sent_bytes.map(bytes).join(', '),
          r.carried_bytes?.map((b, rank) => `x ${(b / r.sent_bytes[rank]).toFixed(4)}`).join(', ') ?? '-',
        ],
      ],
    ),
  );
  console.log(
    `${r.library}; 4 MiB from each rank to each other one: ${r.link_ms.toFixed(1)} ms; ` +
      `tokens of each expert: ${r.load.join(' ')}`,
  );
}
