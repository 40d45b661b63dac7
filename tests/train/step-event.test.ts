// Tests events of steps: layers may have the names of properties that every object inherits.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor } from '../../src/base/tensor.ts';
import { stepEvent } from '../../src/train/step-event.ts';

test('statistics are stored under the names of layers, also for names such as constructor', () => {
  const names = ['constructor', 'toString', 'hasOwnProperty', 'blocks.0.moe'],
    number = hostTensor('float32', [], [0.5]);
  const stats = Object.fromEntries(names.map((name) => [`${name}/gateEntropy`, number]));
  const event = stepEvent({ step: 1, loss: 1, aux: {}, stats, gradNorm: 1 }, { ms: 1, count: 1 });
  const { layers } = JSON.parse(JSON.stringify(event)) as { layers: unknown };
  assert.deepEqual(layers, Object.fromEntries(names.map((name) => [name, { gate_entropy: 0.5 }])));
  assert.equal(Object.hasOwn(Object, 'gate_entropy'), false);
});
