// Calls of one session that are not awaited, in random order, with a close between them. Each call must give the same
// result as if every call were awaited. Calls after the close must be refused.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import fc from 'fast-check';
import { UserError } from '../../src/base/errors.ts';
import type { HostTensor } from '../../src/base/tensor.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { generate } from '../../src/session/generate.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { toyBatch } from '../../tests/support/toy.ts';
import { BrokenPromise, assertPromise, type Part, type AttackContext } from '../part.ts';
import { places, type Place } from '../support/small-run.ts';

/**
 * `after`: what the caller waits for before the next call: nothing, a turn of the event loop, some milliseconds, or the
 * call itself.
 */
interface Call {
  readonly does:
    | 'step'
    | 'forward'
    | 'predict'
    | 'serialize'
    | 'deserialize'
    | 'save'
    | 'prepare'
    | 'recompile'
    | 'evaluate'
    | 'generate'
    | 'assignments';
  readonly n: number;
  readonly size: number;
  readonly after: 'nothing' | 'turn' | 'while' | 'call';
}
interface Case {
  readonly calls: readonly Call[];
  /**
   * The index of the call before which the session is closed; if it is beyond the last call, the session is closed at
   * the end.
   */
  readonly close: number;
  readonly accumulate: number;
  readonly place: Place;
}

const PROMISE = 'calls that are not awaited give the same results as calls that are awaited one by one';

const calling = (does: readonly Call['does'][]): fc.Arbitrary<Call[]> =>
  fc.array(
    fc.record({
      does: fc.constantFrom(...does),
      n: fc.nat(5),
      size: fc.constantFrom(2, 2, 4),
      after: fc.constantFrom<Call['after'][]>('nothing', 'nothing', 'nothing', 'turn', 'while', 'call'),
    }),
    { minLength: 2, maxLength: 20 },
  );

export const calls: Part<Case> = {
  name: 'calls',
  promise: PROMISE,
  share: 2,
  limit: 90,
  knownFaults: ['unordered'],
  // Each token of `generate` is a call of its own, and other calls may run between two tokens. Together with steps, the
  // result of `generate` would depend on timing, so the second list of calls has no calls that change the session.
  cases: fc.record({
    calls: fc.oneof(
      calling([
        'step',
        'step',
        'step',
        'forward',
        'predict',
        'evaluate',
        'serialize',
        'deserialize',
        'save',
        'prepare',
        'recompile',
        'assignments',
      ]),
      calling(['forward', 'predict', 'evaluate', 'generate', 'generate', 'serialize']),
    ),
    close: fc.integer({ min: 1, max: 30 }),
    accumulate: fc.constantFrom(1, 2),
    place: places(),
  }),
  attack,
};

const CONTEXT = 12,
  VOCAB = 17;
const batch = (n: number, size: number): ReturnType<typeof toyBatch> => toyBatch(n, size, CONTEXT, VOCAB);
const hash = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const text = (t: HostTensor): string => hash(new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength));

const open = (accumulate: number, { device, threads }: Place): Promise<Session> =>
  compile(
    new TransformerLM({
      vocab: VOCAB,
      dModel: 8,
      layers: 1,
      heads: 1,
      context: CONTEXT,
      dropout: 0.1,
      moe: { experts: 4, topK: 2, hidden: 8, capacity: 1 },
    }),
    {
      loss: crossEntropy,
      optimizer: adamW({ lr: 1e-2 }),
      accumulate,
      device,
      threads,
      seed: 4,
      memory: 256e6,
      say: () => undefined,
    },
  );

let blob: Promise<Uint8Array> | null = null;

/** A checkpoint after two steps, from which calls of `deserialize` restore. */
async function checkpoint(): Promise<Uint8Array> {
  const session = await open(1, { device: 'wasm', threads: 1 });
  try {
    for (const n of [90, 91]) await session.step(batch(n, 2));
    return await session.serialize();
  } finally {
    await session.close();
  }
}

/** The result of a call, as text. */
async function outcome(
  session: Session,
  { does, n, size }: Call,
  i: number,
  folder: string,
  bytes: Uint8Array,
): Promise<string> {
  switch (does) {
    case 'step': {
      const { step, loss, gradNorm } = await session.step(batch(n, size));
      return `${step} ${loss} ${gradNorm}`;
    }
    case 'forward': {
      const out = await session.forward(batch(n, size));
      return `${text(out['loss'])} ${text(out['output'])}`;
    }
    case 'predict':
      return text(await session.predict(batch(n, size).x));
    case 'serialize':
      return hash(await session.serialize());
    case 'deserialize':
      await session.deserialize(bytes);
      return 'restored';
    case 'save':
      await session.save(join(folder, `${i}.safetensors`));
      return 'saved';
    case 'prepare':
      await session.prepare(batch(n, size));
      return 'prepared';
    case 'assignments':
      return JSON.stringify(await session.assignments('blocks.0.moe'));
    case 'evaluate': {
      const { loss, samples } = await session.evaluate([batch(n, size), batch(n + 1, size)]);
      return `${loss} ${samples}`;
    }
    case 'generate': {
      const tokens: number[] = [];
      for await (const token of generate(session, [n, n + 1], { tokens: 2 + size, temperature: 0.7, seed: n }))
        tokens.push(token);
      return tokens.join();
    }
    case 'recompile': {
      session.recompile<TransformerLM>({
        name: `rule ${i}`,
        trigger: () => true,
        only: 'N',
        budget: 1,
        measure: false,
        alter: (m) => {
          const [{ moe }] = m.blocks;
          if (moe) {
            moe.dispatch = n % 2 ? 'padded' : 'ragged';
            moe.recompute = n > 2;
          }
        },
      });
      return 'added';
    }
  }
}

const CLOSED = 'refused: it is closed';

async function attack({ calls: list, close, accumulate, place }: Case, context: AttackContext): Promise<void> {
  const { folder } = context,
    bytes = await (blob ??= checkpoint());
  const together = await runSequence({ list, close, folder, bytes, accumulate, place }, false),
    apart = await runSequence({ list, close, folder, bytes, accumulate, place }, true);
  context.count('calls', list.length);
  list.forEach((call, i) => {
    assertPromise(
      PROMISE,
      together[i] === apart[i],
      () => `call ${i + 1} of ${list.length}, ${call.does}: ${together[i]}; awaited it gives ${apart[i]}`,
    );
  });
}

interface Sequence {
  readonly list: readonly Call[];
  readonly close: number;
  readonly folder: string;
  readonly bytes: Uint8Array;
  readonly accumulate: number;
  readonly place: Place;
}

/** The result of each call. */
async function runSequence(
  { list, close, folder, bytes, accumulate, place }: Sequence,
  awaited: boolean,
): Promise<string[]> {
  const session = await open(accumulate, place),
    results: Promise<string>[] = [];
  let closing: Promise<void> | null = null;
  for (const [i, call] of list.entries()) {
    if (i === close) closing = session.close();
    if (awaited) await closing;
    const result = outcome(session, call, i, folder, bytes).catch((error: unknown) => {
      if (error instanceof UserError) return /closed/.test(error.message) ? CLOSED : `refused: ${error.message}`;
      throw error instanceof Error ? error : new Error(String(error));
    });
    result.catch(() => undefined);
    results.push(result);
    if (awaited || call.after === 'call') await result;
    else if (call.after === 'turn')
      await new Promise((resolve) => {
        setImmediate(resolve);
      });
    else if (call.after === 'while')
      await new Promise((resolve) => {
        setTimeout(resolve, 1 + call.n);
      });
  }
  if (!closing) await Promise.allSettled(results);
  await (closing ?? session.close());
  const told = await Promise.all(results);
  // If the session is closed while `generate` runs, it is refused between two tokens.
  told.forEach((t, i) => {
    if (closing !== null && i >= close && t !== CLOSED)
      throw new BrokenPromise('a call after close is refused', `call ${i + 1}, ${list[i].does}, after the close: ${t}`);
  });
  return told.map((t, i) => (closing !== null && list[i].does === 'generate' ? 'either' : t));
}
