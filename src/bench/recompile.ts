// dynamoe bench recompile: compares capacities that a policy sets during the run with fixed capacity factors, for one
// mixture-of-experts layer with a skewed load, alternating on the same batches in one process. There are two sessions:
// one recompiles, the other gets each fixed factor in turn.
import { availableParallelism } from 'node:os';
import { UserError } from '../base/errors.ts';
import { Stream } from '../base/random.ts';
import { hostTensor, type Batch } from '../base/tensor.ts';
import type { Tensor } from '../graph/tensor.ts';
import { relu } from '../graph/ops/elementwise/relu.ts';
import { Linear } from '../nn/linear.ts';
import { meanSquaredError } from '../nn/loss.ts';
import { capacityRows } from '../nn/moe/capacity.ts';
import { MoE } from '../nn/moe/moe.ts';
import type { Overflow } from '../nn/moe/routing.ts';
import type { Dispatch } from '../nn/moe/strategies.ts';
import { median } from '../observe/quantile.ts';
import { sgd } from '../optim/sgd.ts';
import { policies } from '../recompile/policies/select.ts';
import type { RecompileEvent } from '../recompile/rule.ts';
import { compile } from '../session/node.ts';
import type { DeviceName } from '../session/platform.ts';
import type { Session } from '../session/session.ts';
import { call } from '../trace/trace.ts';
import { bytes, count } from '../base/format.ts';
import { SkewedRouter } from './skewed-router.ts';

export interface RecompileFlags {
  readonly tokens: number;
  readonly dModel: number;
  readonly dFf: number;
  readonly experts: number;
  readonly topK: number;
  readonly dispatch: Dispatch;
  readonly overflow: Overflow;
  /** Whether each expert is a module of its own, not part of a bank. */
  readonly modules?: boolean;
  /** Rank 1 is the busiest expert: the router's bias is -skew ln(rank). */
  readonly skew: number;
  /** Steps over which ranks move on by a third of the experts; 0: never. */
  readonly drift: number;
  readonly policy: string;
  readonly alphas: readonly number[];
  /** The capacity factor from which the policy starts. */
  readonly from: number;
  readonly warmUp: number;
  readonly steps: number;
  /** Steps between two measurements of the fixed factors. */
  readonly every: number;
  readonly device: DeviceName;
  readonly threads?: number;
  readonly json?: boolean;
}

/**
 * The result for one plan. Planned bytes (intermediate values, inputs and outputs, constants) are the maximum over
 * measured steps.
 */
export interface PlanRow {
  readonly event: 'plan';
  readonly plan: string;
  readonly step_ms: number;
  readonly samples_per_s: number;
  /** Share of the choices in measured steps that were dropped. */
  readonly dropped: number;
  readonly planned_bytes: number;
  /** Recompilations that were kept, including those during warm-up. */
  readonly recompilations: number;
}

/** The policy compared with the smallest fixed factor that drops no more. */
export interface Verdict {
  readonly event: 'verdict';
  readonly against: number | null;
  /** Fixed plan divided by policy: time (median over turns), and planned bytes. */
  readonly throughput: number | null;
  readonly bytes: number | null;
  readonly state_bytes: number;
  /** Total time by which recompilations delayed steps. */
  readonly stall_ms: number;
}

class Ffn {
  readonly up: Linear;
  readonly down: Linear;
  constructor(width: number, hidden: number) {
    this.up = new Linear(width, hidden, { bias: false });
    this.down = new Linear(hidden, width, { bias: false });
  }

  forward(x: Tensor): Tensor {
    return call(this.down, relu(call(this.up, x)));
  }
}

class Layer {
  readonly moe: MoE;
  constructor({ dModel, dFf, experts, topK, dispatch, overflow, modules = false, from }: RecompileFlags) {
    const router = new SkewedRouter({ dModel, experts });
    this.moe = new MoE({
      dModel,
      topK,
      router,
      dispatch,
      overflow,
      capacity: from,
      ...(modules
        ? { experts: Array.from({ length: experts }, () => new Ffn(dModel, dFf)) }
        : { experts, hidden: dFf, activation: 'relu' as const }),
    });
  }

  forward(x: Tensor): Tensor {
    return call(this.moe, x);
  }
}

/** Random inputs, different in every step; the targets do not affect loads and stay the same. */
function batchesOf({ tokens, dModel }: RecompileFlags): (step: number) => Batch {
  const draw = (name: string, i: number) =>
      hostTensor('float32', [tokens, dModel], new Stream(0, name).normals(i, 1, new Float32Array(tokens * dModel))),
    y = draw('y', 0);
  let last = -1,
    x = y;
  return (step) => {
    if (step !== last) x = draw('x', step);
    last = step;
    return { x, y };
  };
}

/** The router's bias at a step. With drift, ranks gradually move on by a third of the experts over so many steps. */
export function biasAt(
  { experts, skew, drift }: Pick<RecompileFlags, 'experts' | 'skew' | 'drift'>,
  step: number,
): Float32Array {
  const at = drift > 0 ? step / drift : 0,
    phase = Math.floor(at),
    stride = Math.floor(experts / 3) || 1;
  const bias = (e: number, moved: number): number => -skew * Math.log(((e + moved * stride) % experts) + 1);
  return Float32Array.from(
    { length: experts },
    (_, e) => bias(e, phase) + (at - phase) * (bias(e, phase + 1) - bias(e, phase)),
  );
}

const total = (list: Iterable<number>): number => {
  let n = 0;
  for (const v of list) n += v;
  return n;
};

export async function measureRecompile(
  flags: RecompileFlags,
): Promise<{ rows: PlanRow[]; verdict: Verdict; events: RecompileEvent[] }> {
  const {
    tokens,
    topK,
    experts,
    alphas,
    device,
    threads = availableParallelism(),
    warmUp,
    steps,
    every,
    overflow,
  } = flags;
  const events: RecompileEvent[] = [],
    batchAt = batchesOf(flags),
    choices = tokens * topK;
  const open = (): Promise<Session> =>
    compile(new Layer(flags), {
      loss: meanSquaredError,
      optimizer: sgd({ lr: 1e-3, eager: true }),
      device,
      threads,
      events: (e) => events.push(e),
      say: (line) => {
        process.stderr.write(`dynamoe: ${line}\n`);
      },
    });
  const adapted = await open();
  let fixed: Session | null = null;
  try {
    fixed = await open();
    for (const rule of policies(flags.policy)) adapted.recompile(rule);
    const timed = async (
      session: Session,
      at: number,
    ): Promise<{ ms: number; load: number[]; dropped: number; bytes: number }> => {
      const batch = batchAt(at),
        { bytes: planned } = await session.prepare(batch);
      session.executor.setState('moe.router.bias', { dtype: 'float32', shape: [experts] }, biasAt(flags, at));
      const start = performance.now(),
        { stats } = await session.step(batch),
        ms = performance.now() - start;
      return {
        ms,
        load: Array.from(stats['moe/load'].data, Number),
        dropped: total(Array.from(stats['moe/dropped']?.data ?? [], Number)),
        bytes: planned.arena + planned.io + planned.constants,
      };
    };
    const byHand = async (alpha: number, at: number): ReturnType<typeof timed> => {
      if (!fixed) throw new Error('no session');
      (fixed.model as Layer).moe.capacity = alpha;
      return timed(fixed, at);
    };
    let at = 0;
    for (; at < warmUp; at++) await timed(adapted, at);
    for (const alpha of alphas) await byHand(alpha, at);
    const own: Awaited<ReturnType<typeof timed>>[] = [],
      theirs = alphas.map((): { ms: number; ratio: number; bytes: number }[] => []);
    for (let i = 0; i < steps; i++, at++) {
      const mine = await timed(adapted, at);
      own.push(mine);
      if (i % every !== 0) continue;
      for (let j = 0; j < alphas.length; j++) {
        const which = (j + i / every) % alphas.length,
          { ms, bytes: planned } = await byHand(alphas[which], at);
        theirs[which].push({ ms, ratio: ms / mine.ms, bytes: planned });
      }
    }
    const row = (
      plan: string,
      ms: readonly number[],
      dropped: number,
      planned: number,
      recompilations: number,
    ): PlanRow => {
      const step_ms = median(ms);
      return {
        event: 'plan',
        plan,
        step_ms,
        samples_per_s: (1000 * tokens) / step_ms,
        dropped,
        planned_bytes: planned,
        recompilations,
      };
    };
    // Both sessions have the same loads, so the drops of a factor are known also for steps that it did not run.
    const drops = (alpha: number): number => {
      const caps = capacityRows(alpha, experts, choices) ?? [];
      return overflow === 'spill'
        ? 0
        : total(own.map(({ load }) => total(load.map((n, e) => Math.max(0, n - caps[e]))))) / (steps * choices);
    };
    const share = total(own.map((s) => s.dropped)) / (steps * choices),
      most = Math.max(...own.map((s) => s.bytes)),
      kept = events.filter((e) => e.kept);
    const adaptedRow = row(
      flags.policy,
      own.map((s) => s.ms),
      share,
      most,
      kept.length,
    );
    const rows = alphas.map((alpha, j) =>
      row(
        String(alpha),
        theirs[j].map((t) => t.ms),
        drops(alpha),
        theirs[j][0].bytes,
        0,
      ),
    );
    const enough = [...alphas.keys()]
      .filter((j) => rows[j].dropped <= share)
      .sort((a, b) => alphas[a] - alphas[b])[0] as number | undefined;
    return {
      rows: [...rows, adaptedRow],
      events,
      verdict: {
        event: 'verdict',
        against: enough === undefined ? null : alphas[enough],
        throughput: enough === undefined ? null : median(theirs[enough].map((t) => t.ratio)),
        bytes: enough === undefined ? null : rows[enough].planned_bytes / most,
        state_bytes: total(Object.values(adapted.bytes())) - adapted.bytes().arena,
        stall_ms: total(events.map((e) => e.stall_ms)),
      },
    };
  } finally {
    await adapted.close();
    await fixed?.close();
  }
}

export async function benchRecompile(flags: RecompileFlags): Promise<void> {
  if (flags.alphas.length === 0)
    throw new UserError('bench recompile: there is no capacity factor to compare with', '--alphas 1,1.25,2');
  const { rows, verdict, events } = await measureRecompile(flags);
  if (flags.json) {
    for (const line of [...events, ...rows, verdict]) process.stdout.write(`${JSON.stringify(line)}\n`);
    return;
  }
  const table = rows.map((r) => [
    r.plan,
    r.step_ms.toFixed(1),
    count(r.samples_per_s),
    `${(100 * r.dropped).toFixed(2)}%`,
    bytes(r.planned_bytes),
    String(r.recompilations),
  ]);
  const lines = [['capacity', 'step, ms', 'samples/s', 'dropped', 'planned', 'recompilations'], ...table];
  const widths = lines[0].map((_, i) => Math.max(...lines.map((l) => l[i].length)));
  for (const line of lines)
    process.stdout.write(
      `${line.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  ')}\n`,
    );
  process.stdout.write(
    verdict.against === null
      ? 'no fixed factor drops as little\n'
      : `against ${verdict.against}, the smallest that drops no more: ${verdict.throughput?.toFixed(2)} times ` +
          `the throughput, ${verdict.bytes?.toFixed(2)} times fewer planned bytes (states: ` +
          `${bytes(verdict.state_bytes)} in both)\n`,
  );
}
