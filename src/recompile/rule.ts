// Rules, and the events by which the engine reports its decisions.
import { UserError } from '../base/errors.ts';
import type { LayerStats, RunStats } from '../observe/run-stats.ts';
import type { Change, ChangeClass, Settings } from '../trace/knobs.ts';

export type { Change, ChangeClass, LayerStats, RunStats };

/** What a rule may ask while it alters a draft, such as how much memory the draft needs as it is now. */
export interface Outlook {
  /** Whether there is no plan yet for the next batch. */
  readonly first: boolean;
  /**
   * All bytes that the draft needs: states, intermediate values, inputs and outputs, for the largest of the last
   * batches. The first call plans the draft, which takes as long as a recompilation without the C compiler; later calls
   * are fast. The number is the same on every machine.
   */
  bytes(): number;
  /**
   * Bytes that may be held: `memory` of CompileOptions, or else the free memory now. Free memory differs between runs,
   * so a rule that reads it may not change results, like one that reads a clock.
   */
  budget(): number;
  /** Whether the user set that number. */
  readonly fixed: boolean;
  /** Settings that the module at `path` had when the session was made. */
  initial(path: string): Settings;
  /**
   * The session's own knobs, to be set like those of the model. `split`: into how many parts a batch is split, which
   * changes results. null: there is no session, its optimiser is eager, or the rule may not change results.
   */
  readonly session: { split: number } | null;
  /** Names of all rules of the session. */
  readonly rules: readonly string[];
}

/**
 * When and how to recompile: the interface of the paper (Kossmann et al. 2022, section 4) with names in place of
 * indices. `trigger` is asked at step boundaries; where it says true, `alter` sets knobs of a draft of the model.
 *
 * A change either leaves results unchanged (class N) or changes them (class R). When a change of class N takes effect,
 * and whether it stays, depends on clocks and compilers; changes of class R must be decided alike in every run. So the
 * draft hides earlier changes of class N: it shows the values that those knobs had before, unless the rule says `only:
 * 'N'`. If what `alter` sets in this draft changes no result, `alter` is called again with a draft of the settings in
 * force, and only what changes no result is taken from that. Limits: a change of results is not repeatable where the
 * rule decides it by `spilled` of a layer whose capacities a rule changes (with overflow 'spill' that changes no
 * result, but how many rows spill), by `run.ms`, or by the model itself in place of the draft. The engine does not
 * notice this.
 */
export interface Rule<M extends object = never> {
  readonly name: string;
  trigger(run: RunStats): boolean;
  alter(model: M, run: RunStats, outlook?: Outlook): void;
  /**
   * Asked before the first step, and before the first batch of another shape, whatever `trigger` and `cooldown` say,
   * with an outlook that is `first`: what it changes then is in force at once, since there is no plan yet that it could
   * be compared with.
   */
  readonly first?: boolean;
  /** Class R: whether to take the change back, asked at step boundaries after the change. */
  undo?(run: RunStats): boolean;
  /**
   * Steps between two recompilations of one class; default 100. After each change that was undone because it was slower
   * the number doubles, until a change is kept.
   */
  readonly cooldown?: number;
  /** How many recompilations the rule may cause; default any number. */
  readonly budget?: number;
  /** Class R: how far the loss of the new plan may lie from that of the old one, as a share of it; default any. */
  readonly tolerance?: number;
  /** 'N': only changes that keep results identical are made; other changes that the rule asks for are ignored. */
  readonly only?: 'N';
  /** Class N: whether 32 steps alternate between old and new plan to measure which is faster; default true. */
  readonly measure?: boolean;
  /** Why, in a few words, for the event. */
  reason?(run: RunStats): string;
}

/** One decision of the engine, with its reason and its measured effect. */
export interface RecompileEvent {
  readonly event: 'recompile';
  /** Present if it was decided in inference; then `step` counts runs. */
  readonly during?: 'inference';
  /** The step before which it was decided. */
  readonly step: number;
  /** The first step of the new plan; null: the new plan never ran. */
  readonly effect: number | null;
  readonly rule: string;
  readonly class: ChangeClass | null;
  readonly reason: string;
  readonly changes: readonly {
    readonly path: string;
    readonly knob: string;
    readonly from: unknown;
    readonly to: unknown;
  }[];
  /** Whether the plan existed already. */
  readonly cached: boolean;
  /** Time to compile, in the background. */
  readonly compile_ms: number;
  readonly verify_ms: number;
  /** Time that steps waited, plus the extra time of steps while the compiler ran. */
  readonly stall_ms: number;
  /**
   * Whether results agreed with those of the old plan, or needed no comparison because only sizes change; null: not
   * compared.
   */
  readonly verified: boolean | null;
  readonly kept: boolean;
  /**
   * Median milliseconds of a step and planned bytes under the old plan and the new one; ms is null where it was not
   * measured.
   */
  readonly before: { readonly ms: number | null; readonly bytes: number };
  readonly after: { readonly ms: number | null; readonly bytes: number };
  /** Median of old time over new time, and its 92% interval, where old and new plan took turns. */
  readonly ratio?: { readonly median: number; readonly low: number; readonly high: number };
  /** Why the change was not kept. */
  readonly error?: string;
}

const EXAMPLE =
  "session.recompile({ name: 'one expert', trigger: (run) => run.step >= 100, alter: (m) => { m.moe.topK = 1; } })";
const FUNCTIONS = ['trigger', 'alter', 'undo', 'reason'] as const,
  NUMBERS = ['cooldown', 'budget', 'tolerance'] as const,
  FLAGS = ['first', 'measure'] as const;
const SETTINGS: readonly string[] = ['name', 'only', ...FUNCTIONS, ...NUMBERS, ...FLAGS];
const LONGEST = 200;

/**
 * A fixed copy of a rule's settings. Throws UserError for values of wrong types, unknown settings, and settings without
 * effect. Functions keep the rule as `this`.
 */
export function ruleOf(rule: unknown): Rule<object> {
  const given = (typeof rule === 'object' && rule !== null ? rule : {}) as Readonly<Record<string, unknown>>,
    { name } = given;
  if (typeof name !== 'string' || name === '') throw new UserError('a rule for recompilation needs a name', EXAMPLE);
  if (name.length > LONGEST || /[\p{Cc}\p{Cs}\u2028\u2029]/u.test(name))
    throw new UserError(
      `a rule's name must be a line of at most ${LONGEST} characters, got ${JSON.stringify(name).slice(0, LONGEST)}`,
    );
  const refuse = (what: string, must: string): never => {
    throw new UserError(`the rule "${name}": ${what} must be ${must}, got ${String(given[what])}`);
  };
  const unknown = Object.keys(given).find((key) => !SETTINGS.includes(key));
  if (unknown !== undefined)
    throw new UserError(
      `the rule "${name}" has no setting named "${unknown}"`,
      `settings are ${SETTINGS.join(', ')}; what a rule remembers belongs in a variable or a private field`,
    );
  for (const what of ['trigger', 'alter'] as const)
    if (typeof given[what] !== 'function') throw new UserError(`the rule "${name}" has no function ${what}`, EXAMPLE);
  for (const what of FUNCTIONS)
    if (given[what] !== undefined && typeof given[what] !== 'function') refuse(what, 'a function');
  if (given['only'] !== undefined && given['only'] !== 'N')
    throw new UserError(
      `the rule "${name}": only must be ` +
        `'N', got ${typeof given['only'] === 'string' ? given['only'] : JSON.stringify(given['only'])}`,
      'leave it out where results may change',
    );
  for (const what of FLAGS)
    if (given[what] !== undefined && typeof given[what] !== 'boolean') refuse(what, 'true or false');
  for (const what of NUMBERS) {
    const n = given[what],
      whole = what !== 'tolerance';
    if (n !== undefined && (typeof n !== 'number' || !(n >= 0) || (whole && n !== Infinity && !Number.isInteger(n))))
      refuse(what, `a ${whole ? 'whole ' : ''}number of at least 0`);
  }
  const idle =
    given['only'] === 'N' ? (['undo', 'tolerance'] as const).find((what) => given[what] !== undefined) : undefined;
  if (idle !== undefined)
    throw new UserError(`the rule "${name}": ${idle} has no effect beside only: 'N'`, 'it is for changes of results');
  const functions = FUNCTIONS.flatMap((what) =>
    given[what] === undefined ? [] : [[what, (given[what] as (...args: unknown[]) => unknown).bind(rule)] as const],
  );
  const others = SETTINGS.flatMap((what) =>
    given[what] === undefined || functions.some(([f]) => f === what) ? [] : [[what, given[what]] as const],
  );
  return Object.freeze(Object.fromEntries<unknown>([...others, ...functions]) as unknown as Rule<object>);
}
