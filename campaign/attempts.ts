// The attacks on one part: cases come from a seed, a case that fails is made smaller. In: a part, and hands that carry
// them out; out: findings.
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
export const repeats = (part: string, attack: Json): string =>
  `npm run campaign -- --only ${part} --case '${JSON.stringify(attack).replaceAll("'", `'\\''`)}'`;

/** Whether two findings are of one kind: numbers aside they say the same. */
export const kindOf = ({ part, promise, what }: Finding): string =>
  `${part} ${promise} ${what.split('\n')[0].replaceAll(/[0-9a-f]{8,}|[\d.e+-]+/g, '#')}`;

export class Attempts {
  readonly #part: Part;
  readonly #seed: number;
  readonly #shrinkSeconds: number;
  /** Cases that are listed: all once in random order, then all in another. */
  #listed: Promise<readonly Json[]> | null = null;
  #cases = 0;
  #next = 0;

  /** seed: of the whole campaign. shrinkSeconds: how long a case that failed is made smaller. */
  constructor(part: Part, seed: number, shrinkSeconds: number) {
    this.#part = part;
    this.#seed = seed;
    this.#shrinkSeconds = shrinkSeconds;
  }

  /** The next attack. null: what was promised held. */
  async next(hands: Hands): Promise<Finding | null> {
    const turn = this.#next++;
    if (this.#part.cases) return this.drawn(new Stream(this.#seed, this.#part.name).uint(turn, 0) >>> 1, hands);
    const list = await (this.#listed ??= this.#list(hands)),
      order = new Stream(this.#seed, this.#part.name).permutation(Math.floor(turn / list.length), list.length);
    this.#cases = list.length;
    return this.given(list[order[turn % list.length]], hands);
  }

  async #list(hands: Hands): Promise<readonly Json[]> {
    const list = await hands.list(this.#part.name, 10 * this.#part.limit);
    if (list.length === 0) throw new Error(`${this.#part.name} lists no cases`);
    return list;
  }

  /** How many cases there are, and how many were carried out; null where they are drawn. */
  get covered(): { readonly cases: number; readonly done: number } | null {
    return this.#cases === 0 ? null : { cases: this.#cases, done: Math.min(this.#next, this.#cases) };
  }

  /** The case of a seed; one that fails is made smaller, while there is time. */
  async drawn(seed: number, hands: Hands): Promise<Finding | null> {
    const { name, limit, cases } = this.#part;
    if (!cases) throw new Error(`${name} lists its cases: --case names one`);
    let found: Finding | null = null,
      until = Infinity;
    await fc.check(
      fc.asyncProperty(cases, async (drawn) => {
        const attack = drawn as Json;
        if (performance.now() > until) return true; // whatever it would do: what was found so far is told
        const outcome = await hands.run(name, attack, limit);
        if (outcome.ok) return true;
        if (!found) until = performance.now() + 1000 * this.#shrinkSeconds;
        found = this.#finding(attack, outcome, seed);
        return false;
      }),
      { seed, numRuns: 1 },
    );
    return found;
  }

  async given(attack: Json, hands: Hands): Promise<Finding | null> {
    const outcome = await hands.run(this.#part.name, attack, this.#part.limit);
    return outcome.ok ? null : this.#finding(attack, outcome, null);
  }

  #finding(attack: Json, { promise, what }: { promise: string; what: string }, seed: number | null): Finding {
    return {
      part: this.#part.name,
      promise,
      what: redact(what),
      seed,
      attack,
      command: repeats(this.#part.name, attack),
    };
  }
}
