// A program of a user's project with the installed package: it trains a small mixture of experts for ten steps on each
// device that is named. It is type-checked with the published types and run without changes. Out: { device: {
// description, losses } } as JSON.
import {
  compile,
  loss,
  nn,
  optim,
  ShapeError,
  textFrom,
  type DeviceName,
  type StepResult,
  type TrainConfig,
} from 'dynamoe';
import * as core from 'dynamoe/core';
import * as data from 'dynamoe/data';
import { jsonLines, stepEvent, tensorBoard, type Logger } from 'dynamoe/log';
import * as node from 'dynamoe/node';
import { chooseDispatch, type RecompileEvent } from 'dynamoe/recompile';
import manifest from 'dynamoe/package.json' with { type: 'json' };

const silent: Logger = { log: () => undefined };
export const config = { steps: 10, device: 'auto', loggers: [silent] } satisfies TrainConfig;
const exports: readonly unknown[] = [
  core.compile,
  node.compile,
  data.text,
  data.mnist,
  data.arrays,
  jsonLines,
  stepEvent,
  tensorBoard,
  ShapeError,
  manifest.version,
];
if (exports.includes(undefined)) throw new Error('an export is missing');

const { argv, stdout } = (
  globalThis as unknown as { process: { argv: string[]; stdout: { write(text: string): void } } }
).process;
const text = textFrom('experts wait in the shade while the quick brown fox jumps. '.repeat(40));
const events: RecompileEvent[] = [];
const results: Record<string, { description: string; losses: number[] }> = {};
for (const device of argv.slice(2) as DeviceName[]) {
  const model = new nn.TransformerLM({
    vocab: 256,
    dModel: 16,
    layers: 2,
    heads: 2,
    context: 16,
    moe: { experts: 4, topK: 2, hidden: 24, capacity: 'dropless' },
  });
  const session = await compile(model, {
    loss: loss.crossEntropy,
    optimizer: optim.adamW({ lr: 1e-2 }),
    device,
    threads: 2,
    seed: 5,
    events: (e: RecompileEvent) => {
      events.push(e);
    },
  });
  session.recompile(chooseDispatch());
  session.recompile<nn.TransformerLM>({
    name: 'padded',
    trigger: (run) => run.step === 2,
    measure: false,
    alter: (m) => {
      for (const { moe } of m.blocks) if (moe) moe.dispatch = 'padded';
    },
  });
  const losses: number[] = [];
  for await (const batch of text.batches({ size: 4, context: 16, seed: 1, limit: 10 })) {
    const result: StepResult = await session.step(batch);
    losses.push(result.loss);
  }
  const other = await core.compile(model, { loss: loss.crossEntropy, device: 'wasm', threads: 1 });
  await other.deserialize(await session.serialize());
  if (other.steps !== 10) throw new Error('a checkpoint as bytes lost its steps');
  // The new plan is compiled beside the steps, so the number of steps until it is ready varies.
  for await (const batch of text.batches({ size: 4, context: 16, seed: 2, limit: 20_000 })) {
    if (events.length > 0) break;
    await session.step(batch);
  }
  if (!events.some((e) => e.rule === 'padded' && e.kept))
    throw new Error(`no recompilation: ${JSON.stringify(events)}`);
  events.length = 0;
  results[device] = { description: session.executor.description, losses };
  await other.close(); // `await using` needs Node 24
  await session.close();
}
stdout.write(JSON.stringify(results));
