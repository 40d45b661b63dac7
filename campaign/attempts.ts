// The attacks on one part of the campaign. Cases are drawn from a seed or listed by the part; a drawn case that fails
// is made smaller. In: a part, and the worker process that runs attacks. Out: findings.
import fc from 'fast-check';
import type { Json } from '../src/io/json.ts';
import { Stream } from '../src/base/random.ts';
import type { AttackWorker } from './attack-worker.ts';
import type { Part } from './part.ts';
import { redact } from './redact.ts';

export interface Finding {
  readonly part: string;
  readonly promise: string;
  /** What happened instead of the promise, without paths. */
  readonly what: string;
  /** The seed from which the case was drawn; null if the case was given. */
  readonly seed: number | null;
  /** The smallest case that failed. */
  readonly attack: Json;
  /** The command that repeats the attack. */
  readonly command: string;
}

/** The shell command that repeats an attack. */
export const commandFor = (part: string, attack: Json): string =>
  `npm run campaign -- --only ${part} --case '${JSON.stringify(attack).replaceAll("'", `'\\''`)}'`;

/** A key that is equal for two findings of the same kind: part, promise and first line, without numbers. */
export const kindOf = ({ part, promise, what }: Finding): string =>
  `${part} ${promise} ${what.split('\n')[0].replaceAll(/[0-9a-f]{8,}|[\d.e+-]+/g, '#')}`;

export class Attempts {
  readonly #part: Part;
  readonly #seed: number;
  readonly #shrinkSeconds: number;
  /** The cases, if the part lists them. All are run once in random order, then all again in another order. */
  #listed: Promise<readonly Json[]> | null = null;
  #cases = 0;
  #next = 0;

  /** seed: the seed of the whole campaign. shrinkSeconds: time limit for making a failed case smaller. */
  constructor(part: Part, seed: number, shrinkSeconds: number) {
    this.#part = part;
    this.#seed = seed;
    this.#shrinkSeconds = shrinkSeconds;
  }

  /** Runs the next attack. Returns null if the promise was kept. */
  async next(worker: AttackWorker): Promise<Finding | null> {
    const turn = this.#next++;
    if (this.#part.cases) return this.runSeed(new Stream(this.#seed, this.#part.name).uint(turn, 0) >>> 1, worker);
    const list = await (this.#listed ??= this.#list(worker)),
      order = new Stream(this.#seed, this.#part.name).permutation(Math.floor(turn / list.length), list.length);
    this.#cases = list.length;
    return this.runCase(list[order[turn % list.length]], worker);
  }

  async #list(worker: AttackWorker): Promise<readonly Json[]> {
    const list = await worker.list(this.#part.name, 10 * this.#part.limit);
    if (list.length === 0) throw new Error(`${this.#part.name} lists no cases`);
    return list;
  }

  /** Number of listed cases, and how many of them were run; null if cases are drawn. */
  get covered(): { readonly cases: number; readonly done: number } | null {
    return this.#cases === 0 ? null : { cases: this.#cases, done: Math.min(this.#next, this.#cases) };
  }

  /** Runs the case that the seed draws. If it fails, makes it smaller until the time limit. */
  async runSeed(seed: number, worker: AttackWorker): Promise<Finding | null> {
    const { name, limit, cases } = this.#part;
    if (!cases) throw new Error(`${name} lists its cases: --case names one`);
    let found: Finding | null = null,
      until = Infinity;
    await fc.check(
      fc.asyncProperty(cases, async (drawn) => {
        const attack = drawn as Json;
        if (performance.now() > until) return true; // Time limit: report the smallest case so far.
        const outcome = await worker.run(name, attack, limit);
        if (outcome.ok) return true;
        if (!found) until = performance.now() + 1000 * this.#shrinkSeconds;
        found = this.#finding(attack, outcome, seed);
        return false;
      }),
      { seed, numRuns: 1 },
    );
    return found;
  }

  async runCase(attack: Json, worker: AttackWorker): Promise<Finding | null> {
    const outcome = await worker.run(this.#part.name, attack, this.#part.limit);
    return outcome.ok ? null : this.#finding(attack, outcome, null);
  }

  #finding(attack: Json, { promise, what }: { promise: string; what: string }, seed: number | null): Finding {
    return {
      part: this.#part.name,
      promise,
      what: redact(what),
      seed,
      attack,
      command: commandFor(this.#part.name, attack),
    };
  }
}
