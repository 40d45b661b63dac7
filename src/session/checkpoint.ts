// Between a session and a checkpoint: what is saved of it, and how it is restored, with the same bits.
import type { DType } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import type { HostTensor } from '../base/tensor.ts';
import { isParameter, type Checkpoint, type CheckpointContent, type CheckpointMeta } from '../io/checkpoint.ts';
import type { Json } from '../io/json.ts';
import type { Optimizer } from '../optim/optimizer.ts';
import type { Named } from '../trace/module.ts';

/** What a checkpoint needs of a session. */
export interface Saved {
  readonly named: Named;
  readonly options: { readonly optimizer?: Optimizer };
  readonly steps: number;
  readonly seed: number;
  states(): { name: string; dtype: DType; shape: readonly number[]; read: () => HostTensor }[];
  restore(step: number, values: Iterable<{ name: string; value: HostTensor }>): void;
  plan(): object;
  restorePlan(plan: never, what: 'all' | 'parameters'): void;
}

/** All tensors of a session, with the caller's own metadata: what rebuilds the model, where the data stood. */
export function contentOf(session: Saved, own: { config: Json; data: Json; extra?: Json }): CheckpointContent {
  const { optimizer } = session.options;
  return {
    tensors: session.states().map(({ name, dtype, shape, read }) => ({ name, dtype, shape, data: () => read().data })),
    meta: { step: session.steps, seed: session.seed, optimizer: optimizer ? { name: optimizer.name, ...optimizer.settings } : {},
      plan: JSON.parse(JSON.stringify(session.plan())) as Json, ...own },
  };
}

/** Sets a session's values to a checkpoint's, and closes it: all of them to train on, the parameters alone to use the model. */
export async function restoreFrom(session: Saved, { meta, file }: Checkpoint, what: 'all' | 'parameters'): Promise<CheckpointMeta> {
  try {
    const values: { name: string; value: HostTensor }[] = [];
    for (const name of file.tensors.keys()) {
      if (!isParameter(name) && what === 'parameters') continue;
      if (isParameter(name) && !session.named.parameters.has(name)) throw misfit(file.where, `it has a parameter ${name} that the model lacks`);
      values.push({ name, value: await file.read(name) });
    }
    const missing = [...session.named.parameters.keys()].find((name) => !file.tensors.has(name));
    if (missing !== undefined) throw misfit(file.where, `the model has a parameter ${missing} that it lacks`);
    session.restore(meta.step, values);
    if (meta.plan !== undefined) session.restorePlan(meta.plan as never, what);
    return meta;
  } finally {
    await file.close();
  }
}

const misfit = (where: string, what: string): UserError => new UserError(`${where} does not fit the model: ${what}`,
  'the checkpoint belongs to another model, or the config file that built it has changed');
