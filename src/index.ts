// The public API of `dynamoe` for any JavaScript engine: nothing here needs Node. node.ts adds Node's devices and
// files.
export { compile } from './session/web.ts';
export * from './common.ts';
export { generate, generateLogprobs, readSafetensors } from './session/later.ts';
