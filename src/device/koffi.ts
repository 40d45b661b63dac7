// The library that calls C.
import type Koffi from 'koffi';

// Bytes of the stack of a call that runs on another thread. koffi's own 256 KiB are too few for MPICH.
const STACK = 1 << 20;

let found: Promise<typeof Koffi> | undefined;

/** Imported only when needed: a bundle may contain this module but not koffi. */
export function loadKoffi(): Promise<typeof Koffi> {
  return (found ??= import('koffi').then(({ default: koffi }) => {
    try {
      koffi.config({ async_stack_size: STACK });
    } catch {
      // The user's program has called C before: the stack keeps its size (hasLargeStack).
    }
    return koffi;
  }));
}

export const hasLargeStack = (koffi: typeof Koffi): boolean =>
  Number((koffi.config() as { async_stack_size?: number }).async_stack_size) >= STACK;
