// Work that rules may watch and recompile: training steps, or inference. In: the parts of one step or run, each a program with its
// inputs; out: their outputs. Around them the engine decides which plan they take.
import type { TypedArray } from '../base/dtype.ts';
import type { HostTensor } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import type { Frozen } from '../optim/ages.ts';
import { compare } from '../recompile/compare.ts';
import type { Engine } from '../recompile/engine.ts';
import { messageOf } from '../recompile/pending.ts';
import type { Change, Knobs } from '../trace/knobs.ts';
import type { Named } from '../trace/module.ts';
import type { Executor, Runnable } from '../run/executor.ts';
import type { Shown } from '../observe/run-stats.ts';
import type { Batching } from './batching.ts';
import { SessionPlant } from './plant.ts';
import type { Programs } from './programs.ts';
import type { Updating } from './updating.ts';

export type Inputs = Record<string, TypedArray>;
export type Outputs = Record<string, HostTensor>;

/** A program by its family, how to trace it, and what it runs on; of a training step, what it leaves as it is. */
export interface Part {
  readonly family: string;
  readonly graph: () => Graph;
  readonly inputs: Inputs;
  readonly frozen?: ReadonlyMap<string, Frozen>;
}

/** What it needs of a session. */
export interface Watched {
  readonly model: object;
  readonly named: Named;
  readonly batching: Batching;
  readonly knobs: Knobs;
  readonly programs: Programs;
  readonly executor: Executor;
  readonly updating: Updating;
}

export class Watch {
  readonly plant: SessionPlant;
  /** There is one from the first rule on. */
  engine: Engine | null = null;
  readonly #session: Watched;

  /** `done`: steps or runs so far. */
  constructor(session: Watched, done: () => number) {
    this.#session = session;
    this.plant = new SessionPlant(session, done);
  }

  /** Before programs are made ahead of a step. */
  before(shape: string, parts: () => readonly Part[]): void {
    this.plant.saw(shape, parts);
    this.engine?.before();
  }

  /** `shape`: of the batch. `make`: its parts under the knobs of now. `checked` may refuse a part's outputs; `finish` counts the step and says what it has shown. */
  async run(shape: string, make: () => readonly Part[], checked: (out: Outputs, program: Runnable, inputs: Inputs) => Promise<void>,
    finish: (outputs: readonly Outputs[], parts: readonly Part[]) => Omit<Shown, 'ms'>): Promise<void> {
    const { executor, programs, knobs, batching, updating } = this.#session, { engine } = this;
    const { parts, renew, forget } = once(make, () => `${batching.split} ${updating.key()}`);
    this.plant.saw(shape, parts);
    try {
      const verify = (await engine?.begin())?.verify ?? null, results: Outputs[] = [], dry: Outputs[] = [];
      let dryMs = 0, ms = 0, failed: string | null = null;
      renew(); // ages of moments may have moved with the change that has come into force
      const own = parts(), others = verify && knobs.with(verify, parts);
      for (const [i, part] of own.entries()) {
        // Part by part, so that sums are what they should be; where the new plan has others, all of them at first.
        for (const other of others?.length === own.length ? others.slice(i, i + 1) : i === 0 ? others ?? [] : []) {
          if (!verify || failed !== null) break;
          const start = performance.now();
          // What fails here is the new plan's, not the step's.
          try { dry.push(await this.#dryRun(verify, other)); } catch (error) { failed = messageOf(error); }
          dryMs += performance.now() - start;
        }
        const program = await programs.get(part.family, part.graph), start = performance.now(), running = executor.run(program, part.inputs);
        engine?.during();
        const out = await running;
        ms += performance.now() - start;
        await checked(out, program, part.inputs);
        results.push(out);
      }
      const shown = finish(results, own);
      await engine?.end({ ...shown, ms }, verify && compare(results, dry, dryMs, failed));
    } finally {
      forget();
      engine?.settle();
    }
  }

  /** A part under changes, storing nothing: values that go with them are moved for it, and taken back. */
  async #dryRun(changes: readonly Change[], { family, graph, inputs }: Part): Promise<Outputs> {
    const { executor, programs, knobs } = this.#session, program = await knobs.with(changes, () => programs.get(family, graph)), back = this.plant.carry(changes);
    try {
      return await executor.run(program, { ...inputs, commit: Int32Array.of(0) });
    } finally {
      back();
    }
  }
}

/** Made once for each setting, until they are forgotten: after that each time, since more may have changed. */
function once<T, K>(make: () => T, setting: () => K): { parts: () => T; renew: () => void; forget: () => void } {
  let made: Map<K, T> | null = new Map<K, T>();
  return { renew() { made?.clear(); }, forget() { made = null; }, parts() {
    const key = setting(), found = made?.get(key) ?? make();
    made?.set(key, found);
    return found;
  } };
}
