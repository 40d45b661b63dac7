// A rank of rank-states.test.ts: makes a session over threads as ranks, saves, restores and reads it, and posts what it
// read.
import { parentPort, workerData } from 'node:worker_threads';
import { crossEntropy } from '../../src/nn/loss.ts';
import { adamW } from '../../src/optim/adam.ts';
import { compileOn } from '../../src/session/compile.ts';
import { node, NOW, openNative } from '../../src/session/node.ts';
import { fingerprint, toyLM } from '../support/toy.ts';
import { ThreadRanks, type Shared } from '../support/thread-ranks.ts';

export interface Given {
  readonly shared: Shared;
  readonly rank: number;
  readonly placement?: Readonly<Record<string, readonly number[]>>;
  /** A file to write the initial values to, one to read, and one to write what was read to. */
  readonly files: { readonly first: string; readonly from: string; readonly again: string; readonly nowhere: string };
}
export interface Found {
  readonly states: Readonly<Record<string, string>>;
  readonly bytes: number;
  readonly elements: number;
  readonly refused: readonly string[];
}

const { shared, rank, placement, files } = workerData as Given;
// The device exchanges nothing: only states are made, written and read.
const platform = { ...node, open: () => openNative(1) };
const session = await compileOn(
  platform,
  toyLM(),
  {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-2 }),
    seed: 3,
    threads: 1,
    ranks: new ThreadRanks(shared, rank),
    ...(placement && { placement }),
  },
  NOW,
);
const why = async (work: () => Promise<unknown>): Promise<string> => {
  try {
    await work();
    return '';
  } catch (error) {
    return String(error);
  }
};
await session.save(files.first);
await session.load(files.from);
await session.save(files.again);
const refused = [
  await why(() => session.save(files.nowhere)),
  await why(() => session.load(rank === 0 ? `${files.from}.missing` : files.from)),
];
const bytes = await session.serialize();
await session.deserialize(bytes);
const read = await Promise.all(session.states().map(async ({ name, readAsync }) => [name, await readAsync()] as const));
// What readAsync gives is set again, as whole values.
await session.restore(
  session.steps,
  read.map(([name, value]) => ({ name, value })),
);
parentPort?.postMessage({
  states: fingerprint(session),
  bytes: session.bytes().params,
  elements: read.reduce((n, [, { data }]) => n + data.length, 0),
  refused,
} satisfies Found);
await session.close();
