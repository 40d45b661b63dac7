// A kernel from the memo is equal to the kernel that would be built: for random graphs one after the other, and for a
// model whose layers repeat.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ops } from '../../src/graph/ops/index.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { lower, type KernelMemo } from '../../src/lower/lower.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { adamW } from '../../src/optim/adam.ts';
import { optimise } from '../../src/passes/optimise.ts';
import { compile } from '../../src/session/node.ts';
import type { Call } from '../../src/lower/lowered.ts';
import { ANYTHING } from '../../src/schedule/target.ts';
import { randomGraph } from '../support/random-graph.ts';
import { toyBatch, toyLM } from '../support/toy.ts';

/** A memo that stores nothing. */
class Forgetful extends Map<string, never> {
  override get(): undefined {
    return undefined;
  }
}

/** Compares the kernels of `graph` with and without the memo; returns how many of them the memo had already. */
function check(graph: Graph, memo: KernelMemo, label: string): number {
  const optimised = optimise(graph, ops),
    before = memo.size,
    got = lower(optimised, ops, ANYTHING, memo),
    want = lower(optimised, ops, ANYTHING, new Forgetful());
  assert.equal(got.calls.length, want.calls.length, label);
  // The expressions of a kernel are made in another order; its key is the hash of its text.
  const plain = (call: Call): object => ({ ...call, kernel: null });
  got.calls.forEach((call, i) => {
    assert.deepEqual(plain(call), plain(want.calls[i]), `${label}, call ${i}`);
  });
  return got.calls.length - (memo.size - before);
}

test('random graphs, with one memo', () => {
  const memo: KernelMemo = new Map();
  for (let seed = 0; seed < 40; seed++) check(randomGraph(seed, 6 + seed).graph, memo, `graph ${seed}`);
});

test('a model: layers share kernels; a second batch size shares the kernels that do not depend on it', async () => {
  await using session = await compile(toyLM({ dropout: 0.1 }), {
    loss: crossEntropy,
    optimizer: adamW({ lr: 0.01, clip: 1 }),
    device: 'reference',
  });
  const memo: KernelMemo = new Map(),
    first = session.trainGraph(toyBatch(0));
  assert.ok(check(first, memo, 'first') > memo.size / 3);
  const known = memo.size;
  check(session.trainGraph(toyBatch(0, 5)), memo, 'another size');
  const added = memo.size - known;
  assert.ok(added < known, `${added} of ${known}`);
  check(first, memo, 'again');
  assert.equal(memo.size, known + added);
});
