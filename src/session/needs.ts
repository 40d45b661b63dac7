// The extras (extras.ts) that a session uses.
import type { Lazy } from '../base/lazy.ts';

export type Recompilers = Lazy<Pick<typeof import('./engine-host.ts'), 'newRecompiler'>>;
export type Checkpoints = Lazy<
  Pick<
    typeof import('./checkpoint.ts'),
    'checkpointBytes' | 'contentOf' | 'decodeCheckpoint' | 'readFrom' | 'restorePlanOrNothing'
  >
>;
