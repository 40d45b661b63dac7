// What the entry points share: index.ts, which loads a part of the library when it is asked for; whole.ts, which has
// all of it; node.ts.
//
// The order is that of modules in a bundle. Code next to code like it compresses better: with the compiler first and
// the layers last, the core is 1.4 kB smaller than in the order of the alphabet.
export { UserError, ShapeError } from './base/errors.ts';
export type { DType } from './base/dtype.ts';
export { convert } from './base/convert.ts';
export { hostTensor, type Batch, type HostTensor, type HostValues } from './base/tensor.ts';
export { arrays, type ArrayDataset, type ArrayOptions, type Rows } from './data/arrays.ts';
export type { Batches, BatchOptions, Dataset, EpochOrder, PassOptions, Split } from './data/dataset.ts';
export { textFrom, type TextDataset, type TextOptions } from './data/text.ts';
export type { ReadOptions, TensorMap } from './io/safetensors-bytes.ts';
export type { Tensor } from './graph/tensor.ts';
export { Parameter, type Init, type ParameterOptions } from './trace/parameter.ts';
export type { Module } from './trace/module.ts';
export { grad } from './grad/grad.ts';
export { call, traceOf, use, type Trace } from './trace/trace.ts';
export { Session } from './session/session.ts';
export { NonFiniteError, type CompileOptions, type Model, type StepResult } from './session/step.ts';
export { averagesOf } from './session/averages.ts';
export type { DeviceName } from './session/platform.ts';
export type { GenerateOptions, LogprobOptions, TokenLogprob } from './session/generate.ts';
export type { TrainConfig } from './train/config-file.ts';
export * as loss from './nn/loss.ts';
export * as metrics from './train/metrics.ts';
export * as ops from './graph/ops/functions.ts';
export * as optim from './optim/index.ts';
export * as nn from './nn/index.ts';
