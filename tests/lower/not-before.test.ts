// Kernels with `notBefore` wait for the kernels that stand before them in the graph, except those that depend on them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Node } from '../../src/graph/graph.ts';
import { waitForNotBefore } from '../../src/lower/not-before.ts';

interface Kernel {
  readonly name: string;
  readonly members: number[];
  readonly after: Set<Kernel>;
  readonly reads: string[];
}

test('kernels with notBefore wait for the last of the kernels that stand before them in the graph', () => {
  // c waits for b, because no kernel between b and c depends on b. c need not wait for a, because b depends on a. c
  // does not wait for early, because early reads d, which waits like c. f belongs to the next part.
  const spec: [string, string[], number?][] = [
    ['a', []],
    ['b', ['a']],
    ['early', ['d']],
    ['c', [], 7],
    ['d', ['c'], 7],
    ['e', ['d', 'b']],
    ['f', ['a'], 9],
  ];
  const kernels = spec.map(([name, reads], i): Kernel => ({ name, members: [i], after: new Set(), reads }));
  const producers = spec.map(([op, , notBefore]): Node => ({
    op,
    inputs: [],
    outputs: [],
    attrs: {},
    scope: '',
    ...(notBefore !== undefined && { notBefore }),
  }));
  waitForNotBefore(kernels, producers, (k) => [
    ...k.after,
    ...k.reads.flatMap((r) => kernels.filter((x) => x.name === r)),
  ]);
  assert.deepEqual(
    kernels.map((k) => [
      k.name,
      [...k.after]
        .map((x) => x.name)
        .sort()
        .join(),
    ]),
    [
      ['a', ''],
      ['b', ''],
      ['early', ''],
      ['c', 'b'],
      ['d', 'b'],
      ['e', ''],
      ['f', 'e,early'],
    ],
  );
});
