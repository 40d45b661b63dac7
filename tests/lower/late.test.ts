// What comes late waits for the kernels that the graph has before it, but for none that waits for it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Node } from '../../src/graph/graph.ts';
import { computeLate } from '../../src/lower/late.ts';

interface Kernel {
  readonly name: string;
  readonly members: number[];
  readonly after: Set<Kernel>;
  readonly reads: string[];
}

test('late kernels wait for the ends of what is before them', () => {
  // b is an end, a is not (b waits for it); early waits for d, which is late itself; f is of the next part.
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
  const producers = spec.map(([op, , late]): Node => ({
    op,
    inputs: [],
    outputs: [],
    attrs: {},
    scope: '',
    ...(late !== undefined && { notBefore: late }),
  }));
  computeLate(kernels, producers, (k) => [...k.after, ...k.reads.flatMap((r) => kernels.filter((x) => x.name === r))]);
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
