// dynamoe bench step: measures how long a training step takes, which share of it is spent outside kernels, and the
// time of each kernel.
import type { LoadedProgram } from '../run/program.ts';
import { ProgramExecutor } from '../run/program.ts';
import { configure } from '../train/configure.ts';
import type { Overrides } from '../train/overrides.ts';
import { openSession } from '../train/open.ts';
import { median } from '../observe/quantile.ts';
import { spread } from './layer.ts';
import { bytes, count } from '../base/format.ts';
import { exampleBatch } from '../train/example-batch.ts';
import { byKernel, kernelTable, machineLimits } from './kernel-times.ts';
import { resident, startPeak } from './resident.ts';

export interface BenchStepFlags extends Overrides {
  readonly json?: boolean;
  readonly steps: number;
  readonly profile?: boolean;
}

const WARM_UP = 5;

export async function benchStep(
  file: string | undefined,
  { steps, profile, json, ...flags }: BenchStepFlags,
): Promise<void> {
  const { experiment } = await configure(file, flags),
    say = (line: string): void => {
      process.stderr.write(`dynamoe: ${line}\n`);
    };
  const session = await openSession(experiment, { say }),
    batch = await exampleBatch(experiment),
    start = startPeak();
  try {
    const opened = performance.now(),
      program = await session.prepare(batch),
      compile_ms = performance.now() - opened,
      { executor } = session;
    const onDevice =
      executor instanceof ProgramExecutor && experiment.config.accumulate === 1
        ? { executor, loaded: program as LoadedProgram }
        : null;
    for (let i = 0; i < WARM_UP; i++) await session.step(batch);
    const ms: number[] = [],
      outside: number[] = [],
      calls: number[] = [],
      sums: number[] = [];
    let times: Float64Array = new Float64Array(0);
    for (let i = 0; i < steps; i++) {
      const start = performance.now();
      await session.step(batch);
      ms.push(performance.now() - start);
      if (!onDevice) continue;
      outside.push((ms[ms.length - 1] ?? 0) - onDevice.executor.callMs);
      // Runs the same step again, as one call and kernel by kernel. Its inputs are still in the device's memory.
      const { bound } = onDevice.loaded,
        called = performance.now();
      await bound.run();
      calls.push(performance.now() - called);
      const { ns } = await bound.profile();
      sums.push(ns.reduce((a, b) => a + b, 0) / 1e6);
      times = times.length === 0 ? ns : times.map((t, k) => t + ns[k]);
    }
    // Time outside kernels is the time of a step outside the call, plus the time by which the call exceeds its kernels
    // run one by one. Each is the best of several rounds, because other work on the machine only adds time.
    const inside = Math.min(...sums),
      beyond = Math.max(0, Math.min(...calls) - inside);
    const tokens = batch.x.dtype === 'int32' ? batch.x.data.length : batch.x.shape[0];
    const result = {
      event: 'step',
      steps,
      threads: executor.threads,
      device: executor.description,
      tokens,
      step_ms: spread(ms),
      tokens_per_s: (tokens / median(ms)) * 1000,
      ...(onDevice && {
        kernels_ms: inside,
        call_ms: Math.min(...calls),
        outside_kernels: (median(outside) + beyond) / median(ms),
        gflops: flopsOf(onDevice.loaded) / median(ms) / 1e6,
      }),
      bytes: session.bytes(),
      peak_bytes: {
        planned: program.bytes.arena + program.bytes.io + program.bytes.constants + executor.stateBytes(),
        rss: resident().peak - start,
      },
      compile_ms,
    };
    const kernels = onDevice && profile ? byKernel(onDevice.loaded, times, steps) : [],
      limits = profile ? await machineLimits(executor.threads) : null;
    if (json) {
      process.stdout.write(`${JSON.stringify({ ...result, ...(profile && { kernels, limits }) })}\n`);
      return;
    }
    const f = (x: number): string => x.toFixed(2);
    process.stdout.write(
      [
        `${executor.description}, ${experiment.config.batch} samples, ${tokens} tokens a step`,
        `step ${f(result.step_ms.median)} ms median, ${f(result.step_ms.min)} min, ${f(result.step_ms.max)} max ` +
          `over ${steps}: ${count(result.tokens_per_s)} tokens/s`,
        ...(onDevice
          ? [
              `kernels ${f(inside)} ms, the call ${f(Math.min(...calls))} ms (best of each); outside kernels ` +
                `${(100 * (result.outside_kernels ?? 0)).toFixed(1)}% of a step; ${f(result.gflops ?? 0)} GFLOP/s ` +
                'over all',
            ]
          : []),
        `memory: arena ${bytes(result.bytes.arena)}, parameters ${bytes(result.bytes.params)}, optimiser ` +
          `${bytes(result.bytes.optimiser)}`,
        ...(kernels.length > 0 ? ['', kernelTable(kernels, limits)] : []),
        '',
      ].join('\n'),
    );
  } finally {
    await session.close();
  }
}

const flopsOf = ({ program }: LoadedProgram): number => program.steps.reduce((n, s) => n + s.flops, 0);
