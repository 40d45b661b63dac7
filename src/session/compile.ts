// Builds a session. In: a model, options, and where it runs; out: a session, or an error with nothing left open.
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
  // On the reference one may also look at the graphs of what no machine could hold.
  if (device !== 'reference') checkRoom(nameParameters(model).parameters, { bytes: memory });
  const backend = await openBackend(platform, { ...options, device });
  try {
    return new Session(model, options, backend);
  } catch (error) {
    backend.executor.close();
    throw error;
  }
}
