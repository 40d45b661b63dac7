// The public API of `dynamoe` in Node: native kernels where a C compiler is found, and checkpoint files.
export * from './common.ts';
export { readSafetensors } from './io/safetensors-bytes.ts';
export { compile, openRanks } from './session/node.ts';
export { initFrom, type Initialised, type InitOptions } from './session/init.ts';
export { generate, generateLogprobs } from './session/generate.ts';
export { logLikelihoods } from './session/likelihood.ts';
export {
  compareTasks,
  evaluateTask,
  type Answer,
  type Comparison,
  type Measure,
  type MeasureName,
  type TaskOptions,
  type TaskResult,
} from './train/task.ts';
export { readTask, type ChoiceQuestion, type Question, type TextQuestion } from './train/task-file.ts';
export { RanksError, type RankCounters, type Ranks } from './device/ranks.ts';
