// Runs work that rules may watch and recompile: training steps, or inference. In: the parts of one step or run, each a
// program with its inputs; out: their outputs. Before and after, the recompilation engine decides which plan they use.
import { messageOf } from '../base/errors.ts';
import type { TypedArray } from '../base/dtype.ts';
import type { HostTensor } from '../base/tensor.ts';
import type { Frozen } from '../optim/ages.ts';
import type { Engine } from '../recompile/engine.ts';
import { accumulatorName } from '../optim/updates.ts';
import { SESSION, type Change } from '../trace/knobs.ts';
import { isCache, type Caches, type Runnable } from '../run/executor.ts';
import { keep, type Part as StatePart } from '../run/undo.ts';
import type { StepReport } from '../observe/run-stats.ts';
import type { EngineSession, Recompiler } from './engine-host.ts';
import type { Traced } from './programs.ts';
import { Shapes } from './shapes.ts';

export type Inputs = Record<string, TypedArray>;
export type Outputs = Record<string, HostTensor>;

/** A program with its inputs. */
export interface Part extends Traced {
  readonly inputs: Inputs;
  /** Called when the inputs are on the device and will not be read again. */
  readonly onInputsRead?: () => void;
  readonly caches?: Caches | undefined;
  /** In a training step: what it does not change. */
  readonly frozen?: ReadonlyMap<string, Frozen>;
  /** Which parts of a state it may change and must be put back if a later part fails; null: all of the state. */
  readonly changes?: (state: string) => readonly StatePart[] | null;
}

/** A part whose program was requested. */
interface RequestedPart extends Part {
  readonly program: () => Runnable | Promise<Runnable>;
}

/** A training step or an inference run. */
export interface Work {
  /** The shapes of the batch. */
  readonly shape: string;
  /** The programs of its parts under the current knobs. */
  readonly programs: () => readonly Traced[];
  /** The parts under the current knobs. */
  readonly parts: () => readonly Part[];
}

export class Watch {
  readonly shapes: Shapes;
  /** Gives the number of steps or runs so far. */
  readonly done: () => number;
  /** null until the first rule is added. */
  recompiler: Recompiler | null = null;
  /** Whether a step is running, or values are moved to try a plan: reading states now would mix old and new values. */
  moving = false;
  readonly #session: EngineSession;

  constructor(session: EngineSession, done: () => number) {
    this.#session = session;
    this.shapes = new Shapes(session.programs);
    this.done = done;
  }

  get engine(): Engine | null {
    return this.recompiler?.engine ?? null;
  }

  /** Call it before programs are compiled in advance of a step. */
  before(shape: string, programs: () => readonly Traced[]): void {
    this.shapes.note(shape, programs, true);
    this.engine?.before();
  }

  /**
   * Runs the model as it is when this is called, or, during a recompilation, when the engine lets the step start.
   * `checked` may reject the outputs of a part; `finish` counts the step and returns what it showed. If a part fails,
   * the states are put back as they were before the first part.
   */
  async run(
    { shape, programs: traced, parts: make }: Work,
    checked: (out: Outputs, program: Runnable, inputs: Inputs) => Promise<never> | null,
    finish: (outputs: readonly Outputs[], parts: readonly Part[]) => Omit<StepReport, 'ms'>,
  ): Promise<void> {
    const { knobs, programs, updating } = this.#session,
      { recompiler } = this,
      engine = recompiler?.engine ?? null;
    const { parts, renew } = once(make, () => `${String(knobs.setting(SESSION, 'split'))} ${updating.key()}`);
    try {
      this.shapes.note(shape, traced, engine !== null);
      const begun = engine?.begin(),
        { verify = null } = begun instanceof Promise ? await begun : (begun ?? {});
      renew(); // a plan that came into force may have moved the ages of moments
      // Programs are requested for all parts now: writes of the user during the step do not affect it.
      const own = parts().map((part): RequestedPart => ({
          ...part,
          program: programs.ask(part.family, part.graph, part.caches),
        })),
        others = verify && knobs.with(verify, parts);
      const { results, dry, dryMs, ms, failed } = await this.#all(own, verify, others, checked);
      const shown = finish(results, own);
      if (recompiler)
        await recompiler.engine.end({ ...shown, ms }, verify && recompiler.host.compare(results, dry, dryMs, failed));
    } finally {
      engine?.settle();
    }
  }

  async #all(
    own: readonly RequestedPart[],
    verify: readonly Change[] | null,
    others: readonly Part[] | null,
    checked: (out: Outputs, program: Runnable, inputs: Inputs) => Promise<never> | null,
  ): Promise<{ results: Outputs[]; dry: Outputs[]; dryMs: number; ms: number; failed: string | null }> {
    const { executor } = this.#session,
      { recompiler } = this,
      results: Outputs[] = [],
      dry: Outputs[] = [],
      back: (() => void)[] = [];
    let dryMs = 0,
      ms = 0,
      failed: string | null = null;
    this.moving = true;
    try {
      for (let i = 0; i < own.length; i++) {
        const part = own[i];
        // The new plan is tried part by part, so that it sees the same sums of gradients; if it has another number of
        // parts, all of its parts are tried first.
        for (const other of others?.length === own.length ? others.slice(i, i + 1) : i === 0 ? (others ?? []) : []) {
          if (!verify || !recompiler || failed !== null) break;
          const start = performance.now();
          // A failure here is one of the new plan, not of the step.
          try {
            dry.push(await recompiler.host.dryRun(verify, other));
          } catch (error) {
            failed = messageOf(error);
          }
          dryMs += performance.now() - start;
        }
        // awaits only if it must: an await would let the caller's call return before the inputs are read
        const asked = part.program(),
          program = asked instanceof Promise ? await asked : asked;
        // The last part needs no undo: it stores its results only if all is well.
        if (i < own.length - 1)
          back.push(
            await keep(executor, program, (state) => isSum(state) || isCache(state), part.changes ?? (() => null)),
          );
        const start = performance.now(),
          running = executor.run(program, part.inputs, part.caches, verify ? undefined : part.onInputsRead);
        running.catch(() => undefined); // awaited below
        this.engine?.during();
        const out = await running;
        ms += performance.now() - start;
        const failing = checked(out, program, part.inputs);
        if (failing) await failing;
        results.push(out);
      }
    } catch (error) {
      // If undoing fails, the device is lost; `error` says why.
      for (const undo of back.reverse())
        try {
          undo();
        } catch {
          break;
        }
      throw error;
    } finally {
      this.moving = false;
    }
    return { results, dry, dryMs, ms, failed };
  }
}

/** Whether a state is an accumulated gradient. The session clears these after a failed step. */
export const isSum = (state: string): boolean => state.startsWith(accumulatorName(''));

/** Keeps what was made while the setting is the same, until `renew`. */
function once<T>(make: () => T, setting: () => string): { parts: () => T; renew: () => void } {
  let last: { readonly key: string; readonly made: T } | null = null;
  return {
    renew() {
      last = null;
    },
    parts() {
      const key = setting();
      if (last?.key !== key) last = { key, made: make() };
      return last.made;
    },
  };
}
