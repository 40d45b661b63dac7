// The expert choices that an MoE layer remembers for each sample, copied from the device.
import { UserError } from '../base/errors.ts';
import { assignmentsOf, memoryState, type Assignments } from '../nn/moe/memory.ts';
import type { Executor } from '../run/executor.ts';
import type { Knobs } from '../trace/knobs.ts';

/** null while the layer's routing is `live`, and before the first step under another routing. */
export async function readAssignments(knobs: Knobs, executor: Executor, path: string): Promise<Assignments | null> {
  const { routing, topK: k, remember: slots } = knobs.settings(path);
  if (routing === undefined) throw new UserError(`${path} is not an MoE layer, so it remembers no choices of experts`);
  const name =
    routing === 'live' ? null : memoryState(executor.stateNames(), path, { k: Number(k), slots: Number(slots) });
  return name === null ? null : assignmentsOf(name, await executor.getState(name));
}
