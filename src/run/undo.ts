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
export function keep(
  executor: Executor,
  { stores }: Runnable,
  skip: (state: string) => boolean,
  partsOf: (state: string) => readonly Part[] | null,
): () => void {
  const back: (() => void)[] = [];
  for (const name of stores) {
    if (skip(name)) continue;
    const all = (): Part[] => [{ at: 0, count: executor.typeOf(name).shape.reduce((n, d) => n * d, 1) }];
    for (const { at, count } of partsOf(name) ?? all()) {
      const before = executor.getPart(name, at, count);
      back.push(() => {
        executor.setPart(name, at, before);
      });
    }
  }
  return () => {
    for (const undo of back) undo();
  };
}
