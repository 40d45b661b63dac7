// Saving and restoring a session: values, steps, seed and plan, between runs and in the order of calls. In: checkpoints
// as files or bytes, or values by name; out: the session with those values, or a UserError and nothing changed.
import { UserError } from '../base/errors.ts';
import { PARTS } from '../base/parts.ts';
import type { Checkpoint, CheckpointContent, CheckpointMeta } from '../io/checkpoint.ts';
import type { Backend } from './backend.ts';
import type { Given } from './checkpoint.ts';
import type { Checkpoints } from './needs.ts';
import type { Order } from './order.ts';
import type { Files } from './platform.ts';
import type { PlanState, Recompiling } from './recompiling.ts';
import type { States, Value } from './states.ts';
import type { Updating } from './updating.ts';
import { checkValues, clearStates, type Resumed, type Saved } from './values.ts';

/** What a checkpoint replaces besides values: the number of committed steps, and the seed of random streams. */
export interface Progress {
  steps: number;
  seed: number;
}

/** The parts of a session that are saved and restored. */
export interface Savable {
  readonly session: Saved;
  readonly backend: Pick<Backend, 'executor' | 'files' | 'group'>;
  readonly order: Order;
  readonly progress: Progress;
  readonly states: States;
  readonly updating: Updating;
  readonly recompiling: Recompiling;
  readonly checkpoints: Checkpoints;
}

export class Saving {
  readonly #of: Savable;

  constructor(of: Savable) {
    this.#of = of;
  }

  /** As `Session.restore`. */
  restore(step: number, values: Iterable<Value>, whole?: Resumed): Promise<void> {
    const { session, order } = this.#of;
    if (!Number.isSafeInteger(step) || step < 0)
      throw new UserError(`restore: the number of steps must be a whole number of at least 0, got ${step}`);
    const all = [...values];
    checkValues(session, all);
    const own = order.idle
      ? all
      : all.map(({ name, value }) => ({ name, value: { ...value, data: value.data.slice() } }));
    return order.change(() => {
      checkValues(session, own); // earlier calls may have created states since the first check
      this.#set(step, own, whole);
    });
  }

  /** Sets values, steps and seed. `plan` is called when all memory is allocated and nothing is set; it may throw. */
  #set(step: number, values: readonly Value[], whole?: Resumed, plan: () => void = () => undefined): void {
    const { session, backend, states, updating, progress } = this.#of,
      given = new Set(values.map(({ name }) => name)),
      before = new Set(backend.executor.stateNames());
    states.set(values, plan);
    if (whole) {
      // States that the checkpoint lacks (moments, if it was saved before the first step) are 0.
      clearStates(backend.executor, (name) => !given.has(name) && !session.named.parameters.has(name));
      progress.seed = whole.seed;
    }
    updating.restore(
      progress.steps,
      step,
      (state) => (given.has(state) ? 'given' : before.has(state) && !whole ? 'kept' : 'none'),
      whole?.updating,
    );
    progress.steps = step;
  }

  /** As `Session.restoreCheckpoint`. */
  restoreCheckpoint(checkpoint: Checkpoint, what: 'all' | 'parameters'): Promise<CheckpointMeta> {
    return this.#restore(() => Promise.resolve(checkpoint), what);
  }

  #restore(open: () => Promise<Checkpoint>, what: 'all' | 'parameters'): Promise<CheckpointMeta> {
    return this.#of.order.run(() => this.#setFrom(open, what), { writes: true });
  }

  async #setFrom(open: () => Promise<Checkpoint>, what: 'all' | 'parameters'): Promise<CheckpointMeta> {
    const {
        session,
        recompiling,
        states,
        backend: { group },
      } = this.#of,
      { say = console.warn } = session.options,
      part = await this.#part();
    const read = async (): Promise<Given & { readonly meta: CheckpointMeta; readonly where: string }> => {
      const checkpoint = await open(),
        { meta, file } = checkpoint;
      await recompiling.needs(meta.plan, what)?.load();
      const given = await part.readFrom(session, checkpoint, what, (name) => states.runsOf(name));
      if (group && PARTS !== (meta.parts ?? 1) && what === 'all')
        throw new UserError(
          `${file.where} was written by a version that added gradients in one chain, which ranks cannot go on with`,
          'continue in one process',
        );
      return { ...given, meta, where: file.where };
    };
    const { values, whole, told, meta, where } = await (group ? group.agreed(read) : read());
    const restore = (plan: PlanState, w: 'all' | 'parameters'): void => {
      recompiling.restore(plan, w);
    };
    this.#set(meta.step, values, whole, () => {
      if (meta.plan !== undefined) part.restorePlanOrNothing(session, restore, meta.plan, what, where);
    });
    for (const line of told) say(line);
    return meta;
  }

  save(path: string): Promise<void> {
    const { order, backend } = this.#of;
    return order.run(async () => {
      const files = this.#files('save', 'serialize'),
        content = await this.#content();
      if (backend.group) await backend.group.write(content, (own) => files.save(path, own));
      else await files.save(path, content);
    });
  }

  async load(path: string): Promise<void> {
    const files = this.#files('load', 'deserialize');
    await this.#restore(() => files.load(path), 'all');
  }

  serialize(): Promise<Uint8Array<ArrayBuffer>> {
    return this.#of.order.run(async () => (await this.#part()).checkpointBytes(await this.#content()));
  }

  async deserialize(bytes: Uint8Array): Promise<void> {
    const own = Uint8Array.from(bytes);
    await this.#restore(async () => (await this.#part()).decodeCheckpoint(own, 'the checkpoint'), 'all');
  }

  async #part(): Promise<NonNullable<Checkpoints['here']>> {
    const { checkpoints } = this.#of;
    return checkpoints.here ?? (await checkpoints.load());
  }

  async #content(): Promise<CheckpointContent> {
    return (await this.#part()).contentOf(this.#of.session, { config: null, data: null });
  }

  #files(method: string, instead: string): Files {
    const { files } = this.#of.backend;
    if (files) return files;
    throw new UserError(
      `session.${method}: there are no files on this platform`,
      `session.${instead} works with the same bytes in memory`,
    );
  }
}
