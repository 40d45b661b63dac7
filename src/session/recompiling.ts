// The two kinds of work of a session that rules may watch, training steps and inference, each with an engine from its
// first rule on.
import { UserError } from '../base/errors.ts';
import { Engine, type EngineState } from '../recompile/engine.ts';
import { messageOf } from '../recompile/pending.ts';
import { ruleOf, type Rule } from '../recompile/rule.ts';
import type { Settings } from '../trace/knobs.ts';
import type { CompileOptions } from './step.ts';
import type { Watched } from './engine-host.ts';
import { Watch } from './watch.ts';

/** What recompilation has made of a session. Plain JSON. */
export interface PlanState {
  readonly knobs: Readonly<Record<string, Settings>>;
  readonly engine: EngineState | null;
}

/** What rules are asked during. */
export type Work = 'training' | 'inference';

export class Recompiling {
  readonly training: Watch;
  readonly inference: Watch;
  readonly #watched: Watched;
  readonly #options: Pick<CompileOptions, 'events' | 'say' | 'agreement'>;
  /** Names of rules, with what they are asked during: also of those whose turn has not come. */
  readonly #names = new Set<string>();

  /** `steps` and `runs`: done so far. */
  constructor(
    watched: Watched,
    steps: () => number,
    runs: () => number,
    options: Pick<CompileOptions, 'events' | 'say' | 'agreement'>,
  ) {
    this.#watched = watched;
    this.#options = options;
    this.training = new Watch(watched, steps);
    this.inference = new Watch(watched, runs);
  }

  /**
   * A rule with its settings as they are now. Throws UserError for one that is none, or is there already; else its name
   * is taken.
   */
  admit(given: unknown, during: Work): Rule<object> {
    const rule = ruleOf(given);
    if (!['training', 'inference'].includes(during))
      throw new UserError(`recompile: no work named ${String(during)}`, "'training' or 'inference'");
    if (this.#names.has(`${during} ${rule.name}`))
      throw new UserError(`there is a rule named "${rule.name}" already`, 'give each rule a name of its own');
    this.#names.add(`${during} ${rule.name}`);
    return rule;
  }

  add(rule: Rule<object>, during: Work): void {
    this.#engineOf(during).add(during === 'inference' ? { ...rule, only: 'N' } : rule);
  }

  #engineOf(during: Work): Engine {
    const [own, other] = during === 'training' ? [this.training, this.inference] : [this.inference, this.training],
      {
        events,
        say = (text: string) => {
          console.warn(text);
        },
        agreement,
      } = this.#options;
    // Whoever is told may fail; the run goes on.
    const line = (text: string, topic?: 'rule'): void => {
      try {
        say(text, topic);
      } catch {
        /* there is nobody else to be told */
      }
    };
    own.engine ??= new Engine(
      own.plant,
      (event) => {
        try {
          events?.(during === 'training' ? event : { ...event, during });
        } catch (error) {
          line(`the listener to recompilations failed: ${messageOf(error)}`);
        }
      },
      { agreement, rival: () => other.engine, say: line },
    );
    return own.engine;
  }

  plan(): PlanState {
    const engine = this.training.engine?.state() ?? null;
    return { knobs: engine?.knobs ?? this.#watched.knobs.all(), engine };
  }

  restore({ knobs, engine }: PlanState, what: 'all' | 'parameters'): void {
    // What is under way for inference goes by the knobs of before.
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
