// The public API of `dynamoe` in Node: native kernels where a C compiler is found, and checkpoint files.
export * from './index.ts';
export { compile, openRanks } from './session/node.ts';
export { RanksError, type RankCounters, type Ranks } from './device/ranks.ts';
