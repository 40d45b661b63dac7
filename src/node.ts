// The public face of `dynamoe` in Node: native kernels where a C compiler is found, checkpoints in files.
export * from './index.ts';
export { compile } from './session/node.ts';
