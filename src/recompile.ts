// The public face of `dynamoe/recompile`: rules that recompile a run while it goes on, and the policies that are built in.
export { adaptCapacity, type AdaptCapacityOptions } from './recompile/adaptCapacity.ts';
export { generate, WORKLOADS, type GenerateOptions } from './recompile/lab/generate.ts';
export { replay, type Replayed } from './recompile/lab/replay.ts';
export { parseTrace, traceLines, type Trace, type TracedLayer } from './recompile/lab/trace.ts';
export { alone, type Agreement } from './recompile/agreement.ts';
export { cacheAssignments, type CacheAssignmentsOptions } from './recompile/cacheAssignments.ts';
export { chooseDispatch, type ChooseDispatchOptions } from './recompile/chooseDispatch.ts';
export { expertLifecycle, type ExpertLifecycleOptions } from './recompile/expertLifecycle.ts';
export { freeSlots, mergeExperts, pruneExpert, splitExpert } from './recompile/lifecycle.ts';
export type { EngineState } from './recompile/engine.ts';
export { fitMemory, type FitMemoryOptions } from './recompile/fitMemory.ts';
export { RunStats, type LayerStats, type SampleStats } from './observe/run-stats.ts';
export { placeExperts, type Placement, type PlacementOptions } from './recompile/placeExperts.ts';
export { policies, policiesFor, POLICY_NAMES } from './recompile/policies.ts';
export { sparsify, type SparsifyOptions } from './recompile/sparsify.ts';
export type { Change, ChangeClass, Outlook, RecompileEvent, Rule } from './recompile/rule.ts';
export { specialise, type SpecialiseOptions } from './recompile/specialise.ts';
export type { Decision } from './recompile/pending.ts';
