// The extras (extras.ts) that a session uses.
import type { Lazy } from '../base/lazy.ts';
import type * as checkpoint from './checkpoint.ts';
import type * as host from './engine-host.ts';
import type * as rounding from './rounding.ts';

export type Recompilers = Lazy<Pick<typeof host, 'newRecompiler'>>;
export type Checkpoints = Lazy<
  Pick<typeof checkpoint, 'checkpointBytes' | 'contentOf' | 'decodeCheckpoint' | 'readFrom' | 'restorePlanOrNothing'>
>;
/** Rounds graphs to 16 bits. */
export type Rounding = Pick<typeof rounding, 'withActivations' | 'withSaved' | 'withStates'>;
