// The public face of `dynamoe`.
export { UserError, ShapeError } from './base/errors.ts';
export type { DType } from './base/dtype.ts';
export { hostTensor, type Batch, type HostTensor } from './base/tensor.ts';
export type { Tensor } from './graph/tensor.ts';
export { Parameter } from './trace/parameter.ts';
export type { Module } from './trace/module.ts';
export { grad } from './grad/grad.ts';
export { call, traceOf, use, type Trace } from './trace/trace.ts';
export { compile, NonFiniteError, Session, type CompileOptions, type Model, type StepResult } from './session/session.ts';
export { generate, type GenerateOptions } from './session/generate.ts';
export type { TrainConfig } from './train/config-file.ts';
export * as loss from './nn/loss.ts';
export * as metrics from './train/metrics.ts';
export * as nn from './nn/index.ts';
export * as ops from './graph/ops/functions.ts';
export * as optim from './optim/index.ts';
