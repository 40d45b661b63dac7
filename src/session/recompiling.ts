// The two kinds of work that rules can watch: training steps and inference. Each gets a recompilation engine when its
// first rule is added, which a page loads then.
import { UserError, messageOf } from '../base/errors.ts';
import type { Lazy } from '../base/lazy.ts';
import type { Engine } from '../recompile/engine.ts';
import type { EngineState } from '../recompile/engine-state.ts';
import { ruleOf, type Rule } from '../recompile/rule.ts';
import type { Settings } from '../trace/knobs.ts';
import type { CompileOptions } from './step.ts';
import type { EngineSession } from './engine-host.ts';
import type { Recompilers } from './needs.ts';
import { Watch } from './watch.ts';

/** The settings and decisions of recompilation in a session. Plain JSON. */
export interface PlanState {
  readonly knobs: Readonly<Record<string, Settings>>;
  readonly engine: EngineState | null;
}

/** The kind of work that a rule watches. */
export type Work = 'training' | 'inference';

export class Recompiling {
  readonly training: Watch;
  readonly inference: Watch;
  readonly #watched: EngineSession;
  readonly #options: Pick<CompileOptions, 'events' | 'say' | 'agreement'>;
  readonly #part: Recompilers;
  /** "WORK NAME" of each rule, also of rules that were admitted but not added yet. */
  readonly #names = new Set<string>();

  /** steps, runs: give the numbers of training steps and inference runs so far. */
  constructor(
    watched: EngineSession,
    steps: () => number,
    runs: () => number,
    options: Pick<CompileOptions, 'events' | 'say' | 'agreement'>,
    part: Recompilers,
  ) {
    this.#part = part;
    this.#watched = watched;
    this.#options = options;
    this.training = new Watch(watched, steps);
    this.inference = new Watch(watched, runs);
  }

  /**
   * Copies a rule with its current settings and reserves its name. Throws UserError for an invalid rule and for a name
   * in use.
   */
  admit(given: unknown, during: Work): Rule<object> {
    const rule = ruleOf(given);
    if (!['training', 'inference'].includes(during))
      throw new UserError(`recompile: there is no work named ${String(during)}`, "'training' or 'inference'");
    if (this.#names.has(`${during} ${rule.name}`))
      throw new UserError(`there is a rule named "${rule.name}" already`, 'give each rule a name of its own');
    this.#names.add(`${during} ${rule.name}`);
    return rule;
  }

  /** What must be loaded before rules are added. */
  get part(): Lazy<unknown> {
    return this.#part;
  }

  add(rule: Rule<object>, during: Work): void {
    this.#engineOf(during).add(during === 'inference' ? { ...rule, only: 'N' } : rule);
  }

  /** Says that a rule was not added, because what it needs could not be loaded. */
  notAdded(rule: Rule<object>, error: unknown): void {
    this.#say(`the rule "${rule.name}" was not added: ${messageOf(error)}`);
  }

  /** The user's `say` may throw; the run continues. */
  #say(text: string, topic?: 'rule'): void {
    const {
      say = (line: string) => {
        console.warn(line);
      },
    } = this.#options;
    try {
      say(text, topic);
    } catch {
      /* nowhere to report it */
    }
  }

  #engineOf(during: Work): Engine {
    const [own, other] = during === 'training' ? [this.training, this.inference] : [this.inference, this.training],
      { events, agreement } = this.#options,
      { here } = this.#part,
      say = (text: string, topic?: 'rule'): void => {
        this.#say(text, topic);
      };
    if (!here) throw new Error('the recompilation engine is not loaded');
    own.recompiler ??= here.newRecompiler(
      this.#watched,
      own.shapes,
      own.done,
      (event) => {
        try {
          events?.(during === 'training' ? event : { ...event, during });
        } catch (error) {
          say(`the function \`events\` failed: ${messageOf(error)}`);
        }
      },
      { agreement, rival: () => other.engine, say },
    );
    return own.recompiler.engine;
  }

  plan(): PlanState {
    const engine = this.training.engine?.state() ?? null;
    return { knobs: engine?.knobs ?? this.#watched.knobs.all(), engine };
  }

  /** What must be loaded before `restore`; null: nothing. plan: of a checkpoint, which may be damaged. */
  needs(plan: unknown, what: 'all' | 'parameters'): Lazy<unknown> | null {
    return what === 'all' && (plan as PlanState | null)?.engine ? this.#part : null;
  }

  restore({ knobs, engine }: PlanState, what: 'all' | 'parameters'): void {
    // A recompilation in progress for inference is based on the old knobs: it is dropped.
    this.inference.engine?.close();
    if (engine && what === 'all') this.#engineOf('training').restore(engine);
    else {
      this.training.engine?.restore(null);
      this.#watched.knobs.restore(knobs);
    }
  }

  close(): void {
    this.training.engine?.close();
    this.inference.engine?.close();
  }
}
