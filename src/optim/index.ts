// Optimisers and schedules: the public face of `optim`.
export { adam, adamW, type AdamOptions } from './adam.ts';
export { ema, type EmaOptions } from './ema.ts';
export type { Group, GroupRule, Groups } from './groups.ts';
export { lion, type LionOptions } from './lion.ts';
export { muon, type MuonOptions } from './muon.ts';
export {
  decayOf,
  type MomentOwner,
  type Optimizer,
  type Schedule,
  type UpdateCall,
  type Updated,
} from './optimizer.ts';
export { warmupCosine, type WarmupCosine } from './schedule.ts';
export { sgd, type SgdOptions } from './sgd.ts';
