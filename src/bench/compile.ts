// dynamoe bench compile: times a cold start in this process, from a model to the end of its first training step.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { configure } from '../train/configure.ts';
import type { Overrides } from '../train/overrides.ts';
import { openSession } from '../train/open.ts';
import { exampleBatch } from '../train/example-batch.ts';

export interface BenchCompileFlags extends Overrides {
  readonly json?: boolean;
  readonly cold?: boolean;
}

export async function benchCompile(
  file: string | undefined,
  { cold = false, json, ...flags }: BenchCompileFlags,
): Promise<void> {
  const { experiment } = await configure(file, flags),
    batch = await exampleBatch(experiment);
  const cache = cold ? await mkdtemp(join(tmpdir(), 'dynamoe-cold-')) : null;
  if (cache !== null) process.env['DYNAMOE_CACHE'] = cache;
  try {
    const marks = [performance.now()],
      mark = (): void => {
        marks.push(performance.now());
      };
    const session = await openSession(experiment, {
      say: (line) => {
        process.stderr.write(`dynamoe: ${line}\n`);
      },
    });
    mark();
    await session.prepare(batch);
    mark();
    await session.step(batch);
    mark();
    const { description: device, threads } = session.executor;
    await session.close();
    const [open, compile, first] = marks.slice(1).map((t, i) => Number((t - marks[i]).toFixed(1)));
    const result = {
      event: 'compile',
      device,
      threads,
      kernel_cache: cold ? 'empty' : 'as it is',
      open_ms: open,
      compile_ms: compile,
      first_step_ms: first,
      total_ms: Number((marks[3] - marks[0]).toFixed(1)),
    };
    process.stdout.write(
      json
        ? `${JSON.stringify(result)}\n`
        : `${device}${cold ? ', no kernel compiled before' : ''}\ndevice opened in ${open} ms, model compiled ` +
            `and its values made in ${compile} ms, first step ${first} ms: ${result.total_ms} ms in all\n`,
    );
  } finally {
    if (cache !== null) await rm(cache, { recursive: true, force: true });
  }
}
