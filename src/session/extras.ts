// What training in float32 does not need: rules, checkpoints, generation, rounding to 16 bits, and the float64
// interpreter of graphs. It is one module,
// so that a bundler makes one more file of it, which a page loads when it first needs one of these (later.ts). In Node
// all is there from the start (node.ts).
export { newRecompiler } from './engine-host.ts';
export { checkpointBytes, contentOf, decodeCheckpoint, readFrom, restorePlanOrNothing } from './checkpoint.ts';
export { generate, generateLogprobs } from './generate.ts';
export { readSafetensors } from '../io/safetensors-bytes.ts';
export { withActivations, withSaved, withStates } from './rounding.ts';
export { evaluate, ReferenceExecutor } from '../run/reference.ts';
