// A kernel of a program is scheduled when a device first reads it, once. A device that finds it compiled on disk does
// not read it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { NativeDevice } from '../../src/device/native/native.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { compileGraph, newMemo } from '../../src/pipeline.ts';
import { GPU } from '../../src/schedule/gpu.ts';
import type { GpuTarget } from '../../src/schedule/target.ts';
import { all } from '../conformance/cases/index.ts';
import { buildCase } from '../conformance/harness.ts';
import { noCompiler } from '../support/toy.ts';

function aGraph(): Graph {
  const family = all.find((f) => f.op === 'softmax');
  assert.ok(family);
  return buildCase(fc.sample(family.cases, { seed: 1, numRuns: 1 })[0]).graph;
}

test('kernels are scheduled when they are read, once for all programs of a memo', () => {
  const graph = aGraph();
  let scheduled = 0;
  const target: GpuTarget = {
    ...GPU,
    schedule: (kernel, of) => {
      scheduled++;
      return GPU.schedule(kernel, of);
    },
  };
  const memo = newMemo(),
    first = compileGraph(graph, target, memo),
    second = compileGraph(graph, target, memo);
  assert.ok(first.kernels.length > 0);
  assert.equal(scheduled, 0);
  const texts = first.kernels.map((k) => k.kernel);
  assert.equal(scheduled, texts.length);
  assert.deepEqual(
    second.kernels.map((k) => k.kernel),
    texts,
  );
  assert.equal(scheduled, texts.length);
});

test('kernels in the cache are not scheduled again', { skip: noCompiler }, async () => {
  const [first, second] = [await NativeDevice.open(1), await NativeDevice.open(1)];
  try {
    const { kernels } = compileGraph(aGraph(), first.target);
    await first.compile(kernels);
    await second.compile(
      kernels.map(({ key }) => ({
        key,
        get kernel(): never {
          throw new Error(`kernel ${key} is read`);
        },
      })),
    );
  } finally {
    await first.close();
    await second.close();
  }
});
