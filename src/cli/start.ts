// dynamoe start, which `npm start` runs: trains the default model for about two minutes, on the user's text or on text
// that every installation has. Then it shows what the model writes, and suggests further commands.
import { shellWord } from '../base/words.ts';
import { glob, stat } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Option, type Command } from 'commander';
import { UserError } from '../base/errors.ts';
import { configure, type Configured } from '../train/configure.ts';
import { chooseDevice } from '../session/node.ts';
import type { ConfigData } from '../train/schema.ts';
import { openCheckpoint, openSession, type SessionOptions } from '../train/open.ts';
import { median } from '../observe/quantile.ts';
import { data, device, MAX_SEED, noAuth, threads, whole, type TrainFlags } from './flags.ts';
import { refuseFlags } from './check-flags.ts';
import { bits, duration, fixed } from '../base/format.ts';
import { writeText } from './generate.ts';
import { exampleBatch } from '../train/example-batch.ts';
import { newFolder, runTraining } from './train.ts';

// Seconds of training steps at the speed before recompilation. Recompilation makes steps faster, so with compiling,
// validation and the sample the command takes about two minutes.
const SECONDS = 150;
const STEPS = { least: 200, most: 6000, measured: 12, warmUp: 3 };
const MAX_BYTES = 2_000_000;
/**
 * A model that recompilation can improve: it starts with room for twice the even share, all of which is computed, used
 * or not. Results do not depend on this.
 */
const MODEL: ConfigData = { model: { moe: { dispatch: 'padded', capacity: 2, overflow: 'spill' } } };

export function defineStart(command: Command): void {
  command
    .description('Trains the default model for about two minutes and shows what it learned.')
    .addOption(data())
    .option('--steps <n>', 'optimiser steps (default: as many as fit into two minutes)', whole(1))
    .option('--out <folder>', 'run folder (default: a new one in runs/)')
    .option('--seed <n>', 'random seed for initial weights and data order (default: 0)', whole(0, MAX_SEED))
    .addOption(device())
    .addOption(threads())
    .addOption(new Option('--no-dash', 'do not serve the live page'))
    .addOption(noAuth())
    .action((flags: TrainFlags) => {
      refuseFlags(command, { auth: flags.dash === false && 'there is no page with --no-dash' });
      return start(flags);
    });
}

async function start({ out = newFolder(), ...flags }: TrainFlags): Promise<void> {
  const own = flags.data === undefined;
  const paths = flags.data ?? (await installedText());
  const say = (line: string): void => {
    process.stdout.write(`${line}\n`);
  };
  const settings = { ...flags, data: paths, evalEvery: 0 },
    trial = await configure(undefined, settings, MODEL);
  say(
    own
      ? 'A mixture-of-experts language model learns the Markdown and TypeScript declarations under node_modules ' +
          `(${paths.length} files).`
      : `A mixture-of-experts language model learns ${paths.join(', ')}.`,
  );
  // Chosen here once, so that the reason is printed once. The run's settings keep what the user asked for.
  const device = flags.device === undefined || flags.device === 'auto' ? await chooseDevice(say) : flags.device;
  const configured =
    flags.steps === undefined
      ? await configure(undefined, { ...settings, steps: await stepsThatFit(trial, { device, say }) }, MODEL)
      : trial;
  const { checkpoint, val_loss: loss } = await runTraining(configured, { ...flags, out, device });

  const { session } = await openCheckpoint(checkpoint, { ...flags, device, say });
  try {
    if (loss !== null) say(`\nvalidation loss: ${fixed(bits(loss))} bits per byte (${fixed(loss)} nats)`);
    say(`checkpoint: ${checkpoint}\n\nWhat it writes now:\n`);
    await writeText(session, { prompt: own ? 'The ' : '\n', tokens: 400, temperature: 0.7, seed: 1 });
  } finally {
    await session.close();
  }
  say(`\nTry next:
  npx --no-install dynamoe dash ${shellWord(out)}
  npx --no-install dynamoe generate ${shellWord(out)}${own ? ' --prompt "export "' : ''} --tokens 400
  npx --no-install dynamoe train --data PATH --steps 4000 --out runs/mine
  npx --no-install dynamoe inspect --stage kernels
  npm start -- --data PATH`);
}

/** The number of steps that this machine does in the available time. */
async function stepsThatFit({ experiment }: Configured, options: SessionOptions): Promise<number> {
  const session = await openSession(experiment, options);
  try {
    const batch = await exampleBatch(experiment),
      ms: number[] = [];
    await session.prepare(batch);
    for (let i = 0; i < STEPS.warmUp + STEPS.measured; i++) {
      const begin = performance.now();
      await session.step(batch);
      if (i >= STEPS.warmUp) ms.push(performance.now() - begin);
    }
    const fit = Math.floor((SECONDS * 1000) / median(ms) / 50) * 50,
      steps = Math.min(STEPS.most, Math.max(STEPS.least, fit));
    process.stdout.write(
      `A step takes ${median(ms).toFixed(1)} ms at first: training ${steps} steps, which takes at most ` +
        `${duration((steps * median(ms)) / 1000)}.\n`,
    );
    return steps;
  } finally {
    await session.close();
  }
}

/** Text in every installation: files under node_modules, of the checkout or around this package. */
async function installedText(): Promise<string[]> {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const folder = [join(root, 'node_modules'), join(root, '..')].find((path) => existsSync(path));
  const found: string[] = [];
  let bytes = 0;
  // The text most like prose comes first, the most plentiful last.
  for (const pattern of ['@types/node/**/*.d.ts', '{*,@*/*}/*.md', 'typescript/lib/lib.es*.d.ts', '**/*.{md,d.ts}']) {
    const paths: string[] = [];
    for await (const path of glob(pattern, { cwd: folder })) paths.push(path);
    for (const path of paths.sort()) {
      const full = join(folder ?? '.', path),
        size = await stat(full).then(
          (s) => (s.isFile() ? s.size : 0),
          () => 0,
        );
      if (found.includes(full) || size < 1000) continue;
      if (bytes + size > MAX_BYTES) return found;
      found.push(full);
      bytes += size;
    }
    if (bytes > MAX_BYTES * 0.8) break;
  }
  if (bytes < 100_000)
    throw new UserError(
      'there is too little text under node_modules to learn from',
      'npm start -- --data PATH trains on your own',
    );
  return found;
}
