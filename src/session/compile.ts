// Builds a session from a model, options and a platform. If that fails, the device is closed again.
import { UserError } from '../base/errors.ts';
import { nameParameters } from '../trace/module.ts';
import { freeMemory, openBackend } from './backend.ts';
import { isGpu, type Platform } from './platform.ts';
import type { Group } from './ranks.ts';
import { checkRoom, type Room } from './room.ts';
import { rounds } from './precision.ts';
import { Session, type Extras } from './session.ts';
import { checkCall, type CompileOptions, type Model } from './step.ts';

/** `compile` of web.ts and node.ts. */
export async function compileOn(
  platform: Platform,
  model: Model,
  given: CompileOptions,
  extras: Extras,
): Promise<Session> {
  checkCall(model, given);
  if (rounds(given.precision) && !extras.here) await extras.load();
  const group = groupOf(platform, given),
    { ranks: _, ...alone } = given,
    options = group ? { ...given, device: 'native' as const } : alone,
    { device = 'auto', memory = freeMemory(platform, group) } = options,
    check = (room: Room): void => {
      checkRoom(nameParameters(model), { ...room, precision: options.precision, ranks: group?.ranks.size });
    };
  // The reference is exempt: `dynamoe inspect` prints graphs of models that fit into no memory. A GPU has its own
  // memory.
  if (device !== 'reference' && !isGpu(device)) check({ bytes: memory });
  const trains = options.optimizer !== undefined,
    backend = await openBackend(platform, { ...options, device, group, trains }, extras);
  try {
    if (isGpu(device)) check(backend.room());
    return new Session(model, options, backend, extras);
  } catch (error) {
    await backend.executor.close();
    throw error;
  }
}

/** null: one process. */
function groupOf({ group }: Platform, options: CompileOptions): Group | null {
  const { ranks } = options;
  if (!ranks || ranks.size === 1) return null;
  if (group) return group(ranks, options);
  throw new UserError('compile: there are no ranks on this platform', 'Node has them');
}
