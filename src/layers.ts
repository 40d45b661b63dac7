// The public API of `dynamoe/layers`: layers and functions that the core does not contain, so that pages that do not use
// them do not load them. They are made of what the core exports.
export { einsum } from './graph/ops/matmul/einsum.ts';
