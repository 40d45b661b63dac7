// The process that runs attacks, one at a time. In: messages { part, attack }. Out: { outcome, figures }. It ends when
// its parent ends.
import { mkdtemp, mkdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Json } from '../src/io/json.ts';
import { BrokenPromise, type Outcome, type AttackContext } from './part.ts';
import { partNamed } from './parts.ts';
import { insertFault } from './known-faults.ts';

/** An order without an attack asks for the part's list of cases. */
export interface Order {
  readonly part: string;
  readonly attack?: Json;
}
export interface Answer {
  readonly outcome: Outcome;
  readonly figures: Readonly<Record<string, number>>;
  readonly list?: readonly Json[];
}

const knownFault = process.env['DYNAMOE_CAMPAIGN_PLANT'] ?? null;
const shared = process.env['DYNAMOE_CAMPAIGN_SHARED'] ?? (await mkdtemp(join(tmpdir(), 'dynamoe-campaign-')));
let unhandled: unknown[] = [];

process.on('unhandledRejection', (reason) => {
  unhandled.push(reason);
});
process.on('disconnect', () => {
  process.exit(0);
});
process.on('message', (order: Order) => {
  void obey(order).then((answer) => {
    process.send?.(answer);
  });
});
insertFault(knownFault);
process.send?.({ ready: true });

async function obey({ part: name, attack }: Order): Promise<Answer> {
  const part = await partNamed(name),
    figures: Record<string, number> = {};
  await mkdir(shared, { recursive: true });
  const folder = await mkdtemp(join(shared, 'attack-'));
  const context: AttackContext = {
    folder,
    shared,
    knownFault,
    count: (figure, by = 1) => {
      figures[figure] = (figures[figure] ?? 0) + by;
    },
  };
  unhandled = [];
  try {
    if (attack === undefined)
      return { outcome: { ok: true }, figures, list: ((await part.list?.(context)) ?? []) as Json[] };
    await part.attack(attack, context);
    // Node reports unhandled rejections after the turn of the event loop in which they happened.
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
    if (unhandled.length > 0) throw new BrokenPromise('every rejected promise is handled', String(unhandled[0]));
    return { outcome: { ok: true }, figures };
  } catch (error) {
    return { outcome: { ok: false, ...told(error, part.promise) }, figures };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function told(error: unknown, promise: string): { promise: string; what: string } {
  if (error instanceof BrokenPromise) return { promise: error.promise, what: error.message };
  return { promise, what: error instanceof Error ? (error.stack ?? error.message) : String(error) };
}
