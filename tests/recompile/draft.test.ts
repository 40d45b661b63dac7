// Drafts of a model: knobs can be set, any other write is refused, and the model itself does not change.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MoE } from '../../src/nn/moe/moe.ts';
import { draftOf } from '../../src/recompile/draft.ts';
import { Knobs } from '../../src/trace/knobs.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { toyLM } from '../support/toy.ts';

test('knobs that are set can be read back and are collected as changes; the model stays as it is', () => {
  const model = toyLM(),
    draft = draftOf(model, nameParameters(model)),
    moe = draft.model.blocks[1].moe;
  assert.ok(moe);
  moe.topK = 1;
  moe.capacity = [1, 2, 1, 1];
  assert.equal(moe.topK, 1);
  assert.deepEqual(moe.capacity, [1, 2, 1, 1]);
  assert.deepEqual(draft.changes(), [
    { path: 'blocks.1.moe', knob: 'topK', from: 2, to: 1 },
    { path: 'blocks.1.moe', knob: 'capacity', from: 'dropless', to: [1, 2, 1, 1] },
  ]);
  assert.deepEqual([model.blocks[1].moe?.topK, model.blocks[1].moe?.capacity], [2, 'dropless']);
  moe.topK = 2; // the original value: no change
  assert.equal(draft.changes().length, 1);
});

test('any other write throws an error with the path', () => {
  const model = toyLM(),
    { model: draft } = draftOf(model, nameParameters(model)),
    open = draft as unknown as Record<string, unknown>;
  assert.throws(() => {
    open['embedding'] = null;
  }, /embedding cannot be set/);
  assert.throws(() => {
    (draft.blocks as unknown[])[0] = null;
  }, /blocks\.0/);
  assert.throws(() => {
    (draft.blocks[0].moe as unknown as Record<string, unknown>)['router'] = null;
  }, /blocks\.0\.moe\.router cannot be set[\s\S]*topK/);
  assert.throws(() => {
    (draft.embedding.weight as { frozen: boolean }).frozen = true;
  }, /embedding\.weight\.frozen cannot be set/);
  assert.throws(() => {
    delete open['embedding'];
  }, /embedding cannot be deleted/);
  assert.ok(model.blocks[0].moe instanceof MoE);
});

test('drafts of frozen objects and lists (Object.freeze) work like others', () => {
  const moe = new MoE({ dModel: 8, experts: 4, topK: 2, hidden: 8 }),
    model = Object.freeze({ layers: Object.freeze([moe]) }),
    draft = draftOf(model);
  draft.model.layers[0].topK = 1;
  assert.deepEqual(
    [draft.changes().map((c) => c.path), moe.topK, draft.model.layers.map((m) => m.topK)],
    [['layers.0'], 2, [1]],
  );
  assert.throws(() => {
    (draft.model.layers as MoE[])[0] = moe;
  }, /layers\.0 cannot be set/);
});

test('changes of knobs are classified as N (same bits) or R (results change)', () => {
  const model = toyLM(),
    knobs = new Knobs(nameParameters(model)),
    path = 'blocks.0.moe';
  const to = (knob: string, value: string | number): 'N' | 'R' =>
    knobs.classify([{ path, knob, from: knobs.settings(path)[knob], to: value }]);
  assert.deepEqual(
    [to('dispatch', 'padded'), to('dispatch', 'einsum'), to('topK', 1), to('capacity', 1), to('overflow', 'spill')],
    ['N', 'R', 'R', 'R', 'N'],
  );
  knobs.apply([{ path, knob: 'capacity', from: 'dropless', to: 1 }]);
  assert.equal(to('capacity', 2), 'R', 'with this capacity choices may be dropped');
  knobs.apply([{ path, knob: 'overflow', from: 'drop', to: 'spill' }]);
  assert.deepEqual([to('capacity', 2), to('priority', 'probs')], ['N', 'R']);
});
