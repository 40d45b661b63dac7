// The public API of `dynamoe/recompile`: rules that recompile a run while it continues, and the built-in policies,
// which `policies/table.ts` exports.
export { generate, WORKLOADS, type GenerateOptions } from './recompile/lab/generate.ts';
export { replay, type Replayed } from './recompile/lab/replay.ts';
export { parseTrace, traceLines, type Trace, type TracedLayer } from './recompile/lab/trace.ts';
export { alone, type Agreement } from './recompile/agreement.ts';
export { freeSlots, mergeExperts, pruneExpert, splitExpert } from './recompile/policies/lifecycle.ts';
export type { EngineState } from './recompile/engine-state.ts';
export { RunStats, type LayerStats, type SampleStats } from './observe/run-stats.ts';
export { placeExperts, type Placement, type PlacementOptions } from './recompile/policies/placeExperts.ts';
export { policies, policiesFor, POLICY_NAMES } from './recompile/policies/select.ts';
export * from './recompile/policies/table.ts';
export type { Change, ChangeClass, Outlook, RecompileEvent, Rule } from './recompile/rule.ts';
export type { Decision } from './recompile/pending.ts';
