// dynamoe bench routing: measures what it costs to remember the choices of experts of samples, and how much shorter
// the critical path becomes if choices are taken from the memory. Layers with live, watched and cached routing
// alternate on the same batches in one process. Nothing is trained, so every remembered choice equals the live one.
// The critical path is the longest chain of kernels in which each must end before the next can start, computed from
// the times of kernels run alone.
import { availableParallelism } from 'node:os';
import { hostTensor, type Batch } from '../base/tensor.ts';
import { Stream } from '../base/random.ts';
import type { Tensor } from '../graph/tensor.ts';
import { relu } from '../graph/ops/elementwise/relu.ts';
import { Linear } from '../nn/linear.ts';
import { meanSquaredError } from '../nn/loss.ts';
import { ROUTINGS, type RoutingMode } from '../nn/moe/memory.ts';
import { MoE } from '../nn/moe/moe.ts';
import { sgd } from '../optim/sgd.ts';
import { conflict } from '../plan/plan.ts';
import type { Program } from '../plan/program.ts';
import { ProgramExecutor, type LoadedProgram } from '../run/program.ts';
import { compile } from '../session/node.ts';
import type { DeviceName } from '../session/platform.ts';
import type { Session } from '../session/session.ts';
import { call } from '../trace/trace.ts';
import { median } from '../observe/quantile.ts';
import { spread, type Spread } from './layer.ts';
import { bytes, table } from '../base/format.ts';

export interface RoutingFlags {
  readonly samples: number;
  readonly tokens: number;
  readonly dModel: number;
  readonly dFf: number;
  readonly experts: number;
  readonly topK: number;
  readonly remember: number;
  readonly rounds: number;
  readonly device: DeviceName;
  readonly threads?: number;
  readonly json?: boolean;
}

export interface RoutingResult {
  readonly event: 'routing';
  readonly routing: RoutingMode;
  readonly samples: number;
  readonly tokens: number;
  readonly experts: number;
  readonly topK: number;
  readonly threads: number;
  readonly step_ms: Spread;
  /**
   * Times of kernels by purpose: choosing experts, sorting rows by expert, reading, comparing and writing the memory;
   * and of all kernels.
   */
  readonly kernels_us: Readonly<Record<Part, number>>;
  /**
   * Times along the critical path from the start of a step: until the gate has its scores, until rows are sorted by
   * expert, and until the step ends.
   */
  readonly scores_us: number;
  readonly sorted_us: number;
  readonly path_us: number;
  /** Bytes of the memory. */
  readonly state_bytes: number;
}

export type Part = 'select' | 'sort' | 'memory' | 'all';

// number of batches, which are used repeatedly; steps per turn, and how many of them are not measured
const BATCHES = 4,
  STEPS = 8,
  WARM_UP = 4;

class Layer {
  readonly input: Linear;
  readonly moe: MoE;
  constructor({ dModel, dFf: hidden, experts, topK, remember }: RoutingFlags, routing: RoutingMode) {
    this.input = new Linear(dModel, dModel);
    this.moe = new MoE({ dModel, experts, topK, hidden, activation: 'relu', routing, remember });
  }

  forward(x: Tensor): Tensor {
    return call(this.moe, relu(call(this.input, x)));
  }
}

export async function benchRouting(flags: RoutingFlags): Promise<void> {
  const { samples, tokens, experts, topK, rounds, device, threads = availableParallelism(), json } = flags,
    say = (line: string): void => {
      process.stderr.write(`dynamoe: ${line}\n`);
    };
  const batches = Array.from({ length: BATCHES }, (_, i) => batchOf(flags, i)),
    open: { routing: RoutingMode; session: Session; ms: number[]; runs: Float64Array[] }[] = [];
  try {
    for (const routing of ROUTINGS)
      open.push({
        routing,
        session: await compile(new Layer(flags, routing), {
          loss: meanSquaredError,
          optimizer: sgd({ lr: 0 }),
          device,
          threads,
          say,
        }),
        ms: [],
        runs: [],
      });
    for (const { session } of open) for (let i = 0; i < BATCHES; i++) await session.step(batches[i]);
    for (let round = 0; round < rounds; round++) {
      for (const { session, ms, runs } of open) {
        for (let i = 0; i < WARM_UP + STEPS; i++) {
          const start = performance.now();
          await session.step(batches[i % BATCHES]);
          if (i >= WARM_UP) ms.push(performance.now() - start);
        }
        const { loaded } = await programOf(session, batches[0]);
        for (let i = 0; i < STEPS; i++) runs.push((await loaded.bound.profile()).ns);
      }
    }
    const results: RoutingResult[] = [];
    for (const { routing, session, ms, runs } of open) {
      // The median of each kernel, because other work on the machine lengthens some of its runs.
      const {
          loaded: { program },
        } = await programOf(session, batches[0]),
        us = program.steps.map((_, k) => median(runs.map((ns) => ns[k] / 1000)));
      results.push({
        event: 'routing',
        routing,
        samples,
        tokens,
        experts,
        topK,
        threads,
        step_ms: spread(ms),
        kernels_us: partsOf(program, us),
        ...pathOf(program, us),
        state_bytes: program.states
          .filter((s) => s.name.startsWith('assigned/'))
          .reduce((n, s) => n + program.tensors[s.tensor].bytes, 0),
      });
    }
    process.stdout.write(
      json ? results.map((r) => `${JSON.stringify(r)}\n`).join('') : `${describe(flags, threads, results)}\n`,
    );
  } finally {
    for (const { session } of open) await session.close();
  }
}

async function programOf(
  session: Session,
  batch: Batch,
): Promise<{ loaded: LoadedProgram; executor: ProgramExecutor }> {
  const { executor } = session;
  if (!(executor instanceof ProgramExecutor)) throw new Error('a device without programs');
  return { loaded: (await session.prepare(batch)) as LoadedProgram, executor };
}

function batchOf({ samples, tokens, dModel }: RoutingFlags, i: number): Batch {
  const stream = new Stream(i, 'bench.routing'),
    shape = [samples, tokens, dModel],
    size = samples * tokens * dModel;
  return {
    x: hostTensor('float32', shape, stream.normals(0, 1, new Float32Array(size), 0)),
    y: hostTensor('float32', shape, stream.normals(1, 1, new Float32Array(size), 0)),
    ids: Int32Array.from({ length: samples }, (_, s) => i * samples + s),
  };
}

const PARTS: Readonly<Record<Exclude<Part, 'all'>, readonly string[]>> = {
  select: ['topK', 'topKUnless'],
  sort: ['histogram', 'choiceStarts', 'permute', 'permuteUnless'],
  memory: ['recall', 'recalls', 'remember', 'equal'],
};

export function partsOf({ steps }: Program, us: readonly number[]): Record<Part, number> {
  const of = (names: readonly string[]): number =>
    steps.reduce((n, s, k) => n + (s.ops.some((op) => names.includes(op)) ? us[k] : 0), 0);
  return {
    select: of(PARTS.select),
    sort: of(PARTS.sort),
    memory: of(PARTS.memory),
    all: us.reduce((a, b) => a + b, 0),
  };
}

/**
 * The longest chains of steps that depend on each other through memory: until the step that chooses, until the last
 * one that sorts, and until the end.
 */
export function pathOf(
  { steps, tensors }: Program,
  us: readonly number[],
): Pick<RoutingResult, 'scores_us' | 'sorted_us' | 'path_us'> {
  const begins: number[] = [],
    ends: number[] = [];
  steps.forEach((step, k) => {
    begins.push(
      steps
        .slice(0, k)
        .reduce((latest, other, i) => (ends[i] > latest && conflict(tensors, other, step) ? ends[i] : latest), 0),
    );
    ends.push(begins[k] + us[k]);
  });
  const of = (times: readonly number[], names: readonly string[]): number =>
    Math.max(0, ...times.filter((_, k) => steps[k].ops.some((op) => names.includes(op))));
  return { scores_us: of(begins, PARTS.select), sorted_us: of(ends, PARTS.sort), path_us: Math.max(0, ...ends) };
}

function describe(
  { samples, tokens, experts, topK }: RoutingFlags,
  threads: number,
  results: readonly RoutingResult[],
): string {
  const f = (x: number): string => x.toFixed(1);
  return [
    `${samples} samples of ${tokens} tokens, ${experts} experts, top-${topK}, ${threads} threads; kernels and ` +
      'the critical path in microseconds, medians',
    table(
      [
        'routing',
        'step, ms',
        'best',
        'choosing',
        'sorting',
        'memory',
        'all kernels',
        'scores after',
        'rows sorted after',
        'between',
        'path',
        'state',
      ],
      results.map((r) => [
        r.routing,
        r.step_ms.median.toFixed(3),
        r.step_ms.min.toFixed(3),
        f(r.kernels_us.select),
        f(r.kernels_us.sort),
        f(r.kernels_us.memory),
        f(r.kernels_us.all),
        f(r.scores_us),
        f(r.sorted_us),
        f(r.sorted_us - r.scores_us),
        f(r.path_us),
        bytes(r.state_bytes),
      ]),
    ),
  ].join('\n');
}
