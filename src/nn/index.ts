// Modules and layers: the public face of `nn`.
export { CausalSelfAttention, type AttentionOptions } from './attention.ts';
export { BatchNorm, type BatchNormOptions } from './batchNorm.ts';
export { Conv2d, type Conv2dOptions } from './conv2d.ts';
export { Dropout } from './dropout.ts';
export { Embedding, type EmbeddingOptions } from './embedding.ts';
export { Linear, type LinearOptions } from './linear.ts';
export { MLP, type MlpOptions } from './mlp.ts';
export { ExpertBank, type Activation, type ExpertsOptions } from './moe/experts.ts';
export type { Capacity } from './moe/capacity.ts';
export { ExpertChoiceRouter, HashRouter, type HashRouterOptions } from './moe/fixed-routers.ts';
export { balanceLoss, gshardLoss, squaredVariation, zLoss, type LossName } from './moe/losses.ts';
export { MoE, SharedExpert, type MoEOptions, type SharedExpertOptions } from './moe/moe.ts';
export type { Assignments, RoutingMode } from './moe/memory.ts';
export {
  aggregate,
  aggregateSpec,
  cache,
  groupBy,
  type Cached,
  type CacheOptions,
  type Specialised,
} from './moe/operators.ts';
export {
  LinearRouter,
  type Choice,
  type GroupLimit,
  type PlainRouterOptions,
  type RouteCall,
  type Router,
  type RouterOptions,
} from './moe/router.ts';
export {
  NoisyTopKRouter,
  SigmoidRouter,
  SinkhornRouter,
  TopKRouter,
  type SigmoidRouterOptions,
  type SinkhornRouterOptions,
  type TopKRouterOptions,
} from './moe/routers.ts';
export { route, type Overflow, type Priority, type Routing, type RoutingOptions } from './moe/routing.ts';
export type { Dispatch, Experts } from './moe/strategies.ts';
export { eligible } from './moe/eligible.ts';
export { activeSlots, type Families, type OpenSlots, type SlotsValue } from './moe/slots.ts';
export {
  compactExperts,
  resizeExperts,
  upcycle,
  type CompactOptions,
  type ResizeOptions,
  type UpcycleOptions,
} from './moe/upcycle.ts';
export { topK } from '../graph/ops/reduce/topK.ts';
export { MultiHeadAttention, type MultiHeadInputs, type MultiHeadOptions } from './multi-head.ts';
export { LayerNorm, RMSNorm, type NormOptions } from './norm.ts';
export { AvgPool2d, GlobalAvgPool2d, MaxPool2d } from './pool.ts';
export { Flatten, Sequential, type Layer } from './sequential.ts';
export { SmallCNN, type SmallCnnOptions } from './smallCnn.ts';
export { TransformerBlock, TransformerLM, type BlockOptions, type TransformerOptions } from './transformer.ts';
export { setDtype } from '../trace/module.ts';
