// Rules, and what the engine tells of its decisions.
import { UserError } from '../base/errors.ts';
import type { LayerStats, RunStats } from '../observe/run-stats.ts';
import type { Change, ChangeClass, Settings } from '../trace/knobs.ts';

export type { Change, ChangeClass, LayerStats, RunStats };

/** What a rule may ask while it alters a draft: what the draft, as it stands, comes to. */
export interface Outlook {
  /** There is no plan yet for the batch that comes next. */
  readonly first: boolean;
  /**
   * Bytes that are held in all: states, intermediate values, inputs and outputs, for the largest of the batches that
   * came last. The compiler plans the draft for that, which takes as long as a recompilation without its C compiler;
   * asked again it is known. The same number on every machine.
   */
  bytes(): number;
  /** Bytes that may be held: `memory` of CompileOptions, or what is free now; to ask for that is to read a clock. */
  budget(): number;
  /** Whether the caller said how many that are. */
  readonly fixed: boolean;
  /** Settings that the module at `path` had when the session was made. */
  initial(path: string): Settings;
  /**
   * The session's own knobs, to be set like those of the model: parts in which it goes through a batch, a change of
   * results. null: there is no session or its optimiser is eager, or the rule may not change results.
   */
  readonly session: { split: number } | null;
  /** Names of the rules at work. */
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
  /** Of a change of results: whether to take it back, asked at step boundaries after it. */
  undo?(run: RunStats): boolean;
  /**
   * Steps between two of its recompilations of one class; default 100. Twice as many after each change in a row that
   * was undone because it did not pay.
   */
  readonly cooldown?: number;
  /** How many recompilations it may cause; default any number. */
  readonly budget?: number;
  /**
   * Of a change of results: how far the loss of the new plan may lie from that of the old one, as a share of it;
   * default any.
   */
  readonly tolerance?: number;
  /** 'N': only what changes no result is set; what else it would change is left as it is. */
  readonly only?: 'N';
  /**
   * Of a change of no result: whether old and new plan take turns for 32 steps to see whether it pays; default true.
   */
  readonly measure?: boolean;
  /** Why, in a few words, for the event. */
  reason?(run: RunStats): string;
}

/** One decision of the engine, with its reason and its measured effect. */
export interface RecompileEvent {
  readonly event: 'recompile';
  /** Where it was decided, if not in training: `step` counts runs then. */
  readonly during?: 'inference';
  /** The step before which it was decided. */
  readonly step: number;
  /** The first step of the new plan; null: it never ran. */
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
  /** Whether the plan was there already. */
  readonly cached: boolean;
  /** In the background. */
  readonly compile_ms: number;
  readonly verify_ms: number;
  /** For which steps waited, and what they took beyond the usual while the compiler ran beside. */
  readonly stall_ms: number;
  /** null: it did not come to it. */
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
  /** Why it was not kept. */
  readonly error?: string;
}

const EXAMPLE =
  "session.recompile({ name: 'one expert', trigger: (run) => run.step >= 100, alter: (m) => { " +
  'm.moe.topK = 1; } })';
const FUNCTIONS = ['trigger', 'alter', 'undo', 'reason'] as const,
  NUMBERS = ['cooldown', 'budget', 'tolerance'] as const,
  FLAGS = ['first', 'measure'] as const;
const SETTINGS: readonly string[] = ['name', 'only', ...FUNCTIONS, ...NUMBERS, ...FLAGS];
const LONGEST = 200;

/**
 * A rule's settings as they are now, checked: what TypeScript would have refused, and what would be ignored. Its
 * functions are called on the rule itself.
 */
export function ruleOf(rule: unknown): Rule<object> {
  const given = (typeof rule === 'object' && rule !== null ? rule : {}) as Readonly<Record<string, unknown>>,
    { name } = given;
  if (typeof name !== 'string' || name === '') throw new UserError('a rule for recompilation needs a name', EXAMPLE);
  if (name.length > LONGEST || /[\p{Cc}\p{Cs}\u2028\u2029]/u.test(name))
    throw new UserError(
      `a rule's name must be ` +
        `a line of at most ${LONGEST} characters, got ${JSON.stringify(name).slice(0, LONGEST)}`,
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
