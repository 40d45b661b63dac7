// Long runs: opening and closing sessions, steps, input shapes, generation, recompilations, checkpoints, viewers of the
// dashboard. Memory after garbage collection, open files, threads and handles of the event loop must not grow.
import { appendFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { get } from 'node:http';
import { join } from 'node:path';
import fc from 'fast-check';
import { openDash } from '../../src/dash/server.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { generate } from '../../src/session/generate.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { toyBatch } from '../../tests/support/toy.ts';
import { assertPromise, type Part, type AttackContext } from '../part.ts';
import { places, type Place } from '../support/small-run.ts';

const PROMISE = 'memory, open files, threads and handles do not grow, however long the process runs';
const KINDS = [
  'sessions',
  'steps',
  'shapes',
  'lengths',
  'generation',
  'recompilations',
  'checkpoints',
  'viewers',
] as const;
interface Case {
  readonly kind: (typeof KINDS)[number];
  readonly place: Place;
  readonly seed: number;
}

export const long: Part<Case> = {
  name: 'long',
  promise: PROMISE,
  share: 3,
  limit: 300,
  knownFaults: ['kept-megabytes'],
  cases: fc.record({ kind: fc.constantFrom(...KINDS), place: places(), seed: fc.nat(100) }),
  attack,
};

// A block of rounds lies between two measurements; the first blocks only fill caches.
const BLOCKS = 10,
  WARM = 4;
const ROUNDS: Readonly<Record<Case['kind'], number>> = {
  sessions: 6,
  steps: 400,
  shapes: 24,
  lengths: 60,
  generation: 10,
  recompilations: 40,
  checkpoints: 30,
  viewers: 15,
};
/** The allowed growth in MB after caches are full: of resident memory, and of the JavaScript heap. */
const RESIDENT = 24,
  HEAP = 6;

/** A kind of work: `round` does one round, `end` closes everything. */
interface Work {
  round(n: number): Promise<void>;
  end(): Promise<void>;
}

interface Measured {
  readonly resident: number;
  readonly heap: number;
  readonly files: number;
  readonly threads: number;
  readonly handles: string;
}

async function attack({ kind, place, seed }: Case, context: AttackContext): Promise<void> {
  const work = await begin(kind, place, seed, context.folder),
    kept: Uint8Array[] = [];
  try {
    let measured = await blocks(work, kind, BLOCKS, 0, context, kept),
      told = growthOf(measured);
    // Resident memory may still rise to its final level: memory that grows in as many further blocks is a leak.
    if (told !== null) {
      measured = await blocks(work, kind, BLOCKS, BLOCKS, context, kept);
      told = growthOf(measured);
    }
    assertPromise(
      PROMISE,
      told === null,
      () => `${ROUNDS[kind]} rounds of ${kind} a block, on ${place.device}, ${place.threads} threads: ${told}`,
    );
    context.count(`rounds of ${kind}`, BLOCKS * ROUNDS[kind]);
  } finally {
    await work.end();
  }
}

async function blocks(
  work: Work,
  kind: Case['kind'],
  count: number,
  from: number,
  { knownFault }: AttackContext,
  kept: Uint8Array[],
): Promise<Measured[]> {
  const measured: Measured[] = [];
  for (let b = 0; b < count; b++) {
    for (let n = 0; n < ROUNDS[kind]; n++) await work.round((from + b) * ROUNDS[kind] + n);
    if (knownFault === 'kept-megabytes') kept.push(new Uint8Array(6 << 20).fill(1));
    measured.push(await measure());
  }
  return measured;
}

/**
 * The growth from the first to the second half of the blocks, without the blocks that warm up; null if there is none
 * that matters.
 */
function growthOf(measured: readonly Measured[]): string | null {
  const after = measured.slice(WARM),
    first = after[0],
    last = after[after.length - 1],
    mb = (of: 'resident' | 'heap'): string => measured.map((m) => (m[of] / 2 ** 20).toFixed(1)).join(' ');
  // The smaller of the last two measurements, less the larger of the first two: single outliers do not count.
  const least = (of: 'resident' | 'heap'): number =>
    (Math.min(last[of], after[after.length - 2][of]) - Math.max(first[of], after[1][of])) / 2 ** 20;
  if (least('resident') > RESIDENT) return `resident MB after each block: ${mb('resident')}`;
  if (least('heap') > HEAP) return `MB of JavaScript after each block: ${mb('heap')}`;
  if (last.files > first.files) return `open files: ${measured.map((m) => m.files).join(' ')}`;
  if (last.threads > first.threads) return `threads: ${measured.map((m) => m.threads).join(' ')}`;
  if (last.handles !== first.handles) return `handles: ${first.handles}, then ${last.handles}`;
  return null;
}

async function measure(): Promise<Measured> {
  for (let i = 0; i < 4; i++) {
    await new Promise((resolve) => {
      setTimeout(resolve, 25);
    });
    globalThis.gc?.();
  }
  const { rss, heapUsed, external } = process.memoryUsage();
  const count = (folder: string): Promise<number> =>
    readdir(`/proc/self/${folder}`).then(
      (names) => names.length,
      () => 0,
    );
  const handles = Map.groupBy(
    process.getActiveResourcesInfo().filter((name) => name !== 'Timeout' && name !== 'Immediate'),
    (name) => name,
  );
  return {
    resident: rss,
    heap: heapUsed + external,
    files: await count('fd'),
    threads: await count('task'),
    handles: [...handles]
      .map(([name, all]) => `${name} ${all.length}`)
      .sort()
      .join(', '),
  };
}

const open = ({ device, threads }: Place, seed: number, context = 12): Promise<Session> =>
  compile(
    new TransformerLM({
      vocab: 17,
      dModel: 16,
      layers: 1,
      heads: 2,
      context,
      moe: { experts: 4, topK: 2, hidden: 16, capacity: 1, overflow: 'spill', dispatch: 'padded' },
    }),
    { loss: crossEntropy, optimizer: adamW({ lr: 1e-3 }), device, threads, seed, memory: 256e6, say: () => undefined },
  );

async function begin(kind: Case['kind'], place: Place, seed: number, folder: string): Promise<Work> {
  if (kind === 'sessions') {
    return {
      end: () => Promise.resolve(),
      round: async () => {
        const session = await open(place, seed);
        try {
          await session.step(toyBatch(0));
          await session.forward(toyBatch(1));
        } finally {
          await session.close();
        }
      },
    };
  }
  if (kind === 'viewers') return viewers(folder);
  const session = await open(place, seed, kind === 'generation' ? 24 : 12),
    end = (): Promise<void> => session.close();
  switch (kind) {
    case 'steps':
      return {
        end,
        round: async (n) => {
          await session.step(toyBatch(n % 50));
        },
      };
    case 'shapes':
      return {
        end,
        round: async (n) => {
          await session.forward(toyBatch(n, 1 + (n % 7), 1 + (n % 12)));
        },
      };
    case 'lengths':
      return {
        end,
        round: async (n) => {
          const samples = 1 + (n % 7),
            time = 1 + ((5 * n) % 12),
            batch = toyBatch(n, samples, time);
          const lengths = Int32Array.from({ length: samples }, (_, s) => (s === 0 ? time : (n * s) % (time + 1)));
          await session.step(n % 2 === 0 ? batch : { ...batch, lengths });
        },
      };
    case 'generation':
      return {
        end,
        round: async (n) => {
          for await (const _ of generate(session, [n % 17], { tokens: 30, seed: n })) {
            /* drawn */
          }
        },
      };
    case 'checkpoints':
      return {
        end,
        round: async (n) => {
          await session.save(join(folder, `${n % 3}.safetensors`));
          await session.load(join(folder, `${n % 3}.safetensors`));
          await session.step(toyBatch(n % 50));
        },
      };
    case 'recompilations':
      session.recompile<TransformerLM>({
        name: 'alternate dispatch',
        only: 'N',
        cooldown: 1,
        measure: false,
        trigger: (run) => run.step % 5 === 0,
        alter: (m, run) => {
          for (const { moe } of m.blocks)
            if (moe) {
              moe.capacity = 0.5 + (run.step % 7) / 4;
              moe.dispatch = run.step % 2 ? 'ragged' : 'padded';
              moe.recompute = run.step % 3 === 0;
            }
        },
      });
      return {
        end,
        round: async (n) => {
          await session.step(toyBatch(n % 50));
        },
      };
  }
}

/** A dashboard whose log grows while viewers connect, read for a moment, and leave. */
async function viewers(folder: string): Promise<Work> {
  const log = join(folder, 'events.jsonl');
  const add = (n: number): void => {
    const load = { moe: [1, 2, 3, n] };
    const event = { event: 'step', step: n + 1, loss: 1, aux: {}, tokens_per_s: 1, ms: 1, grad_norm: 1, load, time: n };
    appendFileSync(log, `${JSON.stringify(event)}\n`);
  };
  add(0);
  const dash = await openDash({ runs: [{ name: 'run', folder }], port: undefined, auth: true }),
    ask = (place: string): Promise<void> =>
      new Promise((resolve, reject) => {
        const request = get(`${dash.url}${place}`, (response) => {
          response
            .once('data', () => {
              response.destroy();
            })
            .once('close', resolve)
            .resume();
        });
        request.once('error', reject);
      });
  return {
    end: () => dash.close(),
    round: async (n) => {
      add(n + 1);
      await Promise.all([ask('events'), ask('metrics'), ask('runs'), ask('events')]);
    },
  };
}
