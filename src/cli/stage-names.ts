// The names of the compiler's stages and of machines, for flags. Help needs them without the printers of stages.ts.

/** In the order of the compiler. */
export const STAGES = [
  'traced',
  'passes',
  'graph',
  'storage',
  'groups',
  'kernels',
  'schedule',
  'source',
  'program',
] as const;
export type StageName = (typeof STAGES)[number];

/** Machines for which kernels are scheduled; no device has the GPU yet, and there is no source for it. */
export const MACHINES = ['native', 'wasm', 'gpu'] as const;
export type Machine = (typeof MACHINES)[number];
