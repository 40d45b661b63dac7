// The parts of the campaign, one file each. A part is loaded when it is needed.
import type { Part } from './part.ts';

const PARTS: Readonly<Record<string, () => Promise<Part>>> = {
  kills: async () => (await import('./parts/kills.ts')).kills,
  ranks: async () => (await import('./parts/ranks.ts')).ranks,
  faults: async () => (await import('./parts/faults.ts')).faults,
  files: async () => (await import('./parts/files.ts')).files,
  models: async () => (await import('./parts/models.ts')).models,
  recompilations: async () => (await import('./parts/recompilations.ts')).recompilations,
  cuda: async () => (await import('./parts/cuda.ts')).cuda,
  calls: async () => (await import('./parts/calls.ts')).calls,
  long: async () => (await import('./parts/long.ts')).long,
};

export const PART_NAMES = Object.keys(PARTS);

export function partNamed(name: string): Promise<Part> {
  const load = PARTS[name] as (() => Promise<Part>) | undefined;
  if (!load) throw new Error(`no part of the campaign is named ${name}: ${PART_NAMES.join(', ')}`);
  return load();
}
