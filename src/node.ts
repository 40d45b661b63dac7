// The public API of `dynamoe` in Node: native kernels where a C compiler is found, and checkpoint files.
export * from './index.ts';
export { compile } from './session/node.ts';
