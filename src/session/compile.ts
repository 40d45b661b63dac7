// Builds a session. In: a model, options, and where it runs; out: a session, or an error with nothing left open.
import { openBackend } from './backend.ts';
import type { Platform } from './platform.ts';
import { Session } from './session.ts';
import { checkCall, type CompileOptions, type Model } from './step.ts';

/** `compile` of web.ts and node.ts. */
export async function compileOn(platform: Platform, model: Model, options: CompileOptions): Promise<Session> {
  checkCall(model, options);
  const backend = await openBackend(platform, { ...options, device: options.device ?? 'auto' });
  try {
    return new Session(model, options, backend);
  } catch (error) {
    backend.executor.close();
    throw error;
  }
}
