// One attack after the other on one part: cases come from a seed, a case that fails is made smaller. In: a part and hands; out: findings.
import fc from 'fast-check';
import type { Json } from '../src/io/json.ts';
import { Stream } from '../src/base/random.ts';
import type { Hands } from './hands.ts';
import type { Part } from './part.ts';
import { redact } from './redact.ts';

export interface Finding {
  readonly part: string;
  readonly promise: string;
  /** What came, without paths. */
  readonly what: string;
  /** From which the case was drawn; null: the case was given. */
  readonly seed: number | null;
  /** The smallest case that failed. */
  readonly attack: Json;
  /** What repeats it. */
  readonly command: string;
}

/** `npm run campaign` with what repeats a case, for a shell. */
export const repeats = (part: string, attack: Json): string => `npm run campaign -- --only ${part} --case '${JSON.stringify(attack).replaceAll("'", `'\\''`)}'`;

/** Whether two findings are of one kind: numbers aside they say the same. */
export const kindOf = ({ part, promise, what }: Finding): string => `${part} ${promise} ${what.split('\n')[0].replaceAll(/[0-9a-f]{8,}|[\d.e+-]+/g, '#')}`;

export class Attempts {
  readonly #part: Part;
  readonly #hands: Hands;
  readonly #seed: number;
  readonly #shrinkSeconds: number;
  #listed: readonly Json[] | null = null;
  #next = 0;

  /** seed: of the whole campaign. shrinkSeconds: how long a case that failed is made smaller. */
  constructor(part: Part, hands: Hands, seed: number, shrinkSeconds: number) {
    this.#part = part;
    this.#hands = hands;
    this.#seed = seed;
    this.#shrinkSeconds = shrinkSeconds;
  }

  /** The next attack. null: what was promised held. */
  async next(): Promise<Finding | null> {
    const turn = this.#next++;
    return this.#part.cases ? this.drawn(new Stream(this.#seed, this.#part.name).uint(turn, 0) >>> 1) : this.given((await this.#list())[await this.#place(turn)]);
  }

  async #list(): Promise<readonly Json[]> {
    this.#listed ??= await this.#hands.list(this.#part.name, 10 * this.#part.limit);
    if (this.#listed.length === 0) throw new Error(`${this.#part.name} lists no cases`);
    return this.#listed;
  }

  /** All cases once in random order, then all in another. */
  async #place(turn: number): Promise<number> {
    const { length } = await this.#list();
    return new Stream(this.#seed, this.#part.name).permutation(Math.floor(turn / length), length)[turn % length];
  }

  /** How many cases there are, and how many were carried out; null where they are drawn. */
  get covered(): { readonly cases: number; readonly done: number } | null {
    return this.#listed && { cases: this.#listed.length, done: Math.min(this.#next, this.#listed.length) };
  }

  /** The case of a seed; one that fails is made smaller, while there is time. */
  async drawn(seed: number): Promise<Finding | null> {
    const { name, limit, cases } = this.#part;
    if (!cases) throw new Error(`${name} lists its cases: --case names one`);
    let found: Finding | null = null, until = Infinity;
    await fc.check(fc.asyncProperty(cases, async (drawn) => {
      const attack = drawn as Json;
      if (performance.now() > until) return true; // whatever it would do: what was found so far is told
      const outcome = await this.#hands.run(name, attack, limit);
      if (outcome.ok) return true;
      if (!found) until = performance.now() + 1000 * this.#shrinkSeconds;
      found = this.#finding(attack, outcome, seed);
      return false;
    }), { seed, numRuns: 1 });
    return found;
  }

  async given(attack: Json): Promise<Finding | null> {
    const outcome = await this.#hands.run(this.#part.name, attack, this.#part.limit);
    return outcome.ok ? null : this.#finding(attack, outcome, null);
  }

  #finding(attack: Json, { promise, what }: { promise: string; what: string }, seed: number | null): Finding {
    return { part: this.#part.name, promise, what: redact(what), seed, attack, command: repeats(this.#part.name, attack) };
  }
}
