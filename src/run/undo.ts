// Copies what a run may change, so that it can be undone. In: an executor, between runs; out: a function that restores
// every byte.
import type { Executor, Runnable } from './executor.ts';

/** `count` elements of a state, starting at element `at`. */
export interface Part {
  readonly at: number;
  readonly count: number;
}

/**
 * Copies what a run of the program may change. skip: states that need no copy. partsOf: the parts of a state that the
 * run may change; null: all of it.
 */
export async function keep(
  executor: Executor,
  { stores }: Runnable,
  skip: (state: string) => boolean,
  partsOf: (state: string) => readonly Part[] | null,
): Promise<() => void> {
  const all = (name: string): Part[] => [{ at: 0, count: executor.typeOf(name).shape.reduce((n, d) => n * d, 1) }];
  const parts = [...stores]
    .filter((name) => !skip(name))
    .flatMap((name) => (partsOf(name) ?? all(name)).map((part) => ({ name, ...part })));
  const before = await executor.getParts(parts);
  return () => {
    parts.forEach(({ name, at }, i) => {
      executor.setPart(name, at, before[i]);
    });
  };
}
