// The public API of `dynamoe` in Node: native kernels where a C compiler is found, and checkpoint files.
export * from './common.ts';
export { readSafetensors } from './io/safetensors-bytes.ts';
export { compile, openRanks } from './session/node.ts';
export { generate, generateLogprobs } from './session/generate.ts';
export { RanksError, type RankCounters, type Ranks } from './device/ranks.ts';
