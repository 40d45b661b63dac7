// Modules and layers: the public face of `nn`.
export { CausalSelfAttention, type AttentionOptions } from './attention.ts';
export { BatchNorm, type BatchNormOptions } from './batchNorm.ts';
export { Conv2d, type Conv2dOptions } from './conv2d.ts';
export { Dropout } from './dropout.ts';
export { Embedding } from './embedding.ts';
export { Linear, type LinearOptions } from './linear.ts';
export { MLP, type MlpOptions } from './mlp.ts';
export { ExpertBank, type Activation, type ExpertsOptions } from './moe/experts.ts';
export { MoE, type MoEOptions } from './moe/moe.ts';
export { MultiHeadAttention, type MultiHeadInputs, type MultiHeadOptions } from './multi-head.ts';
export { LayerNorm, RMSNorm } from './norm.ts';
export { AvgPool2d, GlobalAvgPool2d, MaxPool2d } from './pool.ts';
export { Flatten, Sequential, type Layer } from './sequential.ts';
export { SmallCNN, type SmallCnnOptions } from './smallCnn.ts';
export { TransformerBlock, TransformerLM, type TransformerOptions } from './transformer.ts';
