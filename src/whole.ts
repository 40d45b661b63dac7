// index.ts with all in it from the start, for bundlers that make one file of a program: nothing is loaded by import().
export { compile, generate, generateLogprobs, readSafetensors } from './session/web-whole.ts';
export * from './common.ts';
