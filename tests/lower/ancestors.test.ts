// Ancestors answers as a search through the links would, for random acyclic relations that grow in any order.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { Ancestors } from '../../src/lower/ancestors.ts';

const COUNT = 70; // more than two words of bits

test('what comes before what, while links are added', () => {
  const random = new Stream(1, 'ancestors');
  for (let n = 0; n < 20; n++) {
    const order = new Ancestors(),
      direct = Array.from({ length: COUNT }, () => new Set<number>()),
      pick = (i: number): number => Math.floor(random.uniform(n, i) * COUNT);
    for (let i = 0; i < COUNT; i++) assert.equal(order.add(), i);
    for (let i = 0; i < 6 * n; i++) {
      // Links follow a hidden order, so that they lead to lower and to higher numbers.
      const [a, b] = [pick(2 * i), pick(2 * i + 1)],
        place = (x: number): number => (x * 9) % COUNT;
      if (a === b) continue;
      const [later, earlier] = place(a) > place(b) ? [a, b] : [b, a];
      order.link(later, earlier);
      direct[later].add(earlier);
    }
    for (let i = 0; i < COUNT; i++) {
      const before = search(direct, i);
      for (let j = 0; j < COUNT; j++) assert.equal(order.has(i, j), before.has(j), `${j} before ${i}`);
    }
  }
});

function search(direct: readonly ReadonlySet<number>[], from: number): Set<number> {
  const found = new Set<number>(),
    queue = [from];
  for (let i = queue.pop(); i !== undefined; i = queue.pop())
    for (const j of direct[i]) {
      if (found.has(j)) continue;
      found.add(j);
      queue.push(j);
    }
  return found;
}
