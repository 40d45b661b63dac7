// What a run may store, so that it can be taken back. In: an executor, between runs; out: a function that puts every
// byte back.
import type { Executor, Runnable } from './executor.ts';

/** Elements of a state: `count` of them from `at` on. */
export interface Part {
  readonly at: number;
  readonly count: number;
}

/**
 * Keeps what a run of `program` may change, but for states that `skip` names. `partsOf` says which parts of a state it
 * may change; null: all of it.
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
