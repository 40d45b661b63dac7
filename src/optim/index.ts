// Optimisers and schedules: the public face of `optim`.
export { adam, adamW, type AdamOptions } from './adam.ts';
export type { Optimizer, Schedule } from './optimizer.ts';
export { warmupCosine, type WarmupCosine } from './schedule.ts';
export { sgd, type SgdOptions } from './sgd.ts';
