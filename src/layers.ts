// The public API of `dynamoe/layers`: layers and functions that the core does not contain, so that pages that do not
// use them do not load them. They are made of what the core exports.
export { einsum } from './graph/ops/matmul/einsum.ts';
export { conv1d } from './graph/ops/image/conv1d.ts';
export { Conv1d, type Conv1dOptions } from './nn/conv1d.ts';
export { convTranspose2d } from './graph/ops/image/convTranspose2d.ts';
export { ConvTranspose2d, type ConvTranspose2dOptions } from './nn/convTranspose2d.ts';
export { GRU, LSTM, type LstmState, type RecurrentOptions, type Unrolled } from './nn/recurrent.ts';
