// Sessions in any JavaScript engine. What training does not need is loaded when it is asked for.
import { compileOn } from './compile.ts';
import { LATER } from './later.ts';
import type { Session } from './session.ts';
import type { CompileOptions, Model } from './step.ts';
import { web } from './web-platform.ts';

/** Builds a session. Memory is checked and taken when the first program is compiled. */
export const compile = (model: Model, options: CompileOptions): Promise<Session> =>
  compileOn(web, model, options, LATER);
