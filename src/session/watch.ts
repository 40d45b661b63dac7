// Work that rules may watch and recompile: training steps, or inference. In: the parts of one step or run, each a
// program with its inputs; out: their outputs. Around them the engine decides which plan they take.
import type { TypedArray } from '../base/dtype.ts';
import type { HostTensor } from '../base/tensor.ts';
import type { Frozen } from '../optim/ages.ts';
import { compare } from '../recompile/compare.ts';
import type { Engine } from '../recompile/engine.ts';
import { accumulatorName } from '../optim/updates.ts';
import { messageOf } from '../recompile/pending.ts';
import { SESSION, type Change } from '../trace/knobs.ts';
import { isCache, type Caches, type Runnable } from '../run/executor.ts';
import { keep, type Part as StatePart } from '../run/undo.ts';
import type { Shown } from '../observe/run-stats.ts';
import { SessionEngineHost, type Watched } from './engine-host.ts';
import type { Traced } from './programs.ts';

export type Inputs = Record<string, TypedArray>;
export type Outputs = Record<string, HostTensor>;

/** A program and what it runs on. */
export interface Part extends Traced {
  readonly inputs: Inputs;
  /** Called when its inputs are on the device and nothing needs them any more. */
  readonly fed?: () => void;
  readonly caches?: Caches | undefined;
  /** Of a training step: what it leaves as it is. */
  readonly frozen?: ReadonlyMap<string, Frozen>;
  /** Which parts of a state it may change, as far as they are taken back where a later part fails; null: all of it. */
  readonly changes?: (state: string) => readonly StatePart[] | null;
}

/** With its program, which is traced. */
interface Asked extends Part {
  readonly program: () => Runnable | Promise<Runnable>;
}

/** A step, or a run. */
export interface Work {
  /** Of the batch. */
  readonly shape: string;
  /** The programs of its parts under the knobs of now. */
  readonly programs: () => readonly Traced[];
  /** The parts under the knobs of now. */
  readonly parts: () => readonly Part[];
}

export class Watch {
  readonly plant: SessionEngineHost;
  /** There is one from the first rule on. */
  engine: Engine | null = null;
  /** Values are between two steps, or moved to try a plan: what reads them now would get some of each. */
  moving = false;
  readonly #session: Watched;

  /** `done`: steps or runs so far. */
  constructor(session: Watched, done: () => number) {
    this.#session = session;
    this.plant = new SessionEngineHost(session, done);
  }

  /** Before programs are made ahead of a step. */
  before(shape: string, programs: () => readonly Traced[]): void {
    this.plant.saw(shape, programs, true);
    this.engine?.before();
  }

  /**
   * What runs is what the model is when this is called, or, where a recompilation is under way, when the engine lets
   * the step go on. `checked` may refuse a part's outputs; `finish` counts the step and says what it has shown. Where a
   * part fails, the states are those of before the first.
   */
  async run(
    { shape, programs: traced, parts: make }: Work,
    checked: (out: Outputs, program: Runnable, inputs: Inputs) => Promise<void>,
    finish: (outputs: readonly Outputs[], parts: readonly Part[]) => Omit<Shown, 'ms'>,
  ): Promise<void> {
    const { knobs, programs, updating } = this.#session,
      { engine } = this;
    const { parts, renew } = once(make, () => `${String(knobs.settings(SESSION)['split'])} ${updating.key()}`);
    try {
      this.plant.saw(shape, traced, engine !== null);
      const begun = engine?.begin(),
        { verify = null } = begun instanceof Promise ? await begun : (begun ?? {});
      renew(); // ages of moments may have moved with the change that has come into force
      // All parts of a step run by what the model is at this moment, whatever its user writes while they run.
      const own = parts().map((part): Asked => ({
          ...part,
          program: programs.ask(part.family, part.graph, part.caches),
        })),
        others = verify && knobs.with(verify, parts);
      this.moving = true;
      const { results, dry, dryMs, ms, failed } = await this.#all(own, verify, others, checked).finally(() => {
        this.moving = false;
      });
      const shown = finish(results, own);
      await engine?.end({ ...shown, ms }, verify && compare(results, dry, dryMs, failed));
    } finally {
      engine?.settle();
    }
  }

  async #all(
    own: readonly Asked[],
    verify: readonly Change[] | null,
    others: readonly Part[] | null,
    checked: (out: Outputs, program: Runnable, inputs: Inputs) => Promise<void>,
  ): Promise<{ results: Outputs[]; dry: Outputs[]; dryMs: number; ms: number; failed: string | null }> {
    const { executor } = this.#session,
      results: Outputs[] = [],
      dry: Outputs[] = [],
      back: (() => void)[] = [];
    let dryMs = 0,
      ms = 0,
      failed: string | null = null;
    try {
      for (const [i, part] of own.entries()) {
        // Part by part, so that sums are what they should be; where the new plan has others, all of them at first.
        for (const other of others?.length === own.length ? others.slice(i, i + 1) : i === 0 ? (others ?? []) : []) {
          if (!verify || failed !== null) break;
          const start = performance.now();
          // What fails here is the new plan's, not the step's.
          try {
            dry.push(await this.#dryRun(verify, other));
          } catch (error) {
            failed = messageOf(error);
          }
          dryMs += performance.now() - start;
        }
        // a wait would let the call return
        const asked = part.program(),
          program = asked instanceof Promise ? await asked : asked;
        // What the last part stores it stores only where all is well.
        if (i < own.length - 1)
          back.push(keep(executor, program, (state) => isSum(state) || isCache(state), part.changes ?? (() => null)));
        const start = performance.now(),
          running = executor.run(program, part.inputs, part.caches, verify ? undefined : part.fed);
        running.catch(() => undefined); // it is waited for below
        this.engine?.during();
        const out = await running;
        ms += performance.now() - start;
        await checked(out, program, part.inputs);
        results.push(out);
      }
    } catch (error) {
      // A device that cannot be written to is gone: the error says why.
      for (const undo of back.reverse())
        try {
          undo();
        } catch {
          break;
        }
      throw error;
    }
    return { results, dry, dryMs, ms, failed };
  }

  /** A part under changes, storing nothing: values that go with them are moved for it, and taken back. */
  async #dryRun(changes: readonly Change[], { family, graph, inputs, caches }: Part): Promise<Outputs> {
    const { executor, programs, knobs } = this.#session,
      program = await knobs.with(changes, () => programs.get(family, graph, caches)),
      back = this.plant.carry(changes);
    try {
      return await executor.run(program, { ...inputs, commit: Int32Array.of(0) }, caches);
    } finally {
      back();
    }
  }
}

/** Sums of gradients start at 0 in each step, whatever is left of a failed one: the session clears them. */
export const isSum = (state: string): boolean => state.startsWith(accumulatorName(''));

/** Made once for each setting. */
function once<T, K>(make: () => T, setting: () => K): { parts: () => T; renew: () => void } {
  const made = new Map<K, T>();
  return {
    renew() {
      made.clear();
    },
    parts() {
      const key = setting(),
        found = made.get(key) ?? make();
      made.set(key, found);
      return found;
    },
  };
}
