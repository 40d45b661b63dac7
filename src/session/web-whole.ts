// Sessions in any JavaScript engine, with the extras (extras.ts) there from the start.
import { present } from '../base/lazy.ts';
import { compileOn } from './compile.ts';
import * as extras from './extras.ts';
import type { Session } from './session.ts';
import type { CompileOptions, Model } from './step.ts';
import { web } from './web-platform.ts';

export { generate, generateLogprobs, readSafetensors } from './extras.ts';

const NOW = present(extras);

/** Builds a session. Memory is checked and taken when the first program is compiled. */
export const compile = (model: Model, options: CompileOptions): Promise<Session> => compileOn(web, model, options, NOW);
