// The extras (extras.ts) that a session uses.
import type { Lazy } from '../base/lazy.ts';
import type * as checkpoint from './checkpoint.ts';
import type * as host from './engine-host.ts';

export type Recompilers = Lazy<Pick<typeof host, 'newRecompiler'>>;
export type Checkpoints = Lazy<
  Pick<typeof checkpoint, 'checkpointBytes' | 'contentOf' | 'decodeCheckpoint' | 'readFrom' | 'restorePlanOrNothing'>
>;
