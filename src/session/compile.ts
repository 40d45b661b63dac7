// Builds a session from a model, options and a platform. If that fails, the device is closed again.
import { nameParameters } from '../trace/module.ts';
import { openBackend } from './backend.ts';
import type { Platform } from './platform.ts';
import { checkRoom } from './room.ts';
import { Session } from './session.ts';
import { checkCall, type CompileOptions, type Model } from './step.ts';

/** `compile` of web.ts and node.ts. */
export async function compileOn(platform: Platform, model: Model, options: CompileOptions): Promise<Session> {
  checkCall(model, options);
  const { device = 'auto', memory = platform.freeMemory() } = options;
  // The reference is exempt: `dynamoe inspect` prints graphs of models that fit into no memory.
  if (device !== 'reference') checkRoom(nameParameters(model), { bytes: memory, precision: options.precision });
  const backend = await openBackend(platform, { ...options, device, trains: options.optimizer !== undefined });
  try {
    return new Session(model, options, backend);
  } catch (error) {
    await backend.executor.close();
    throw error;
  }
}
