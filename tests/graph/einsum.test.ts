// einsum against a sum over all letters in plain loops, for random equations; what it refuses. Its gradients are
// compared with finite differences in tests/conformance/cases/einsum.ts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ShapeError, UserError } from '../../src/base/errors.ts';
import { Stream } from '../../src/base/random.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { einsum } from '../../src/layers.ts';
import { ops } from '../../src/graph/ops/index.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { ReferenceExecutor } from '../../src/run/reference.ts';
import { equations, type Equation } from '../conformance/cases/einsum.ts';

/** The sum over all letters of the product of the operands, one addition at a time. */
function loops({ inputs, output, sizes }: Equation, data: readonly Float64Array[]): Float64Array {
  const letters = [...new Set(inputs.join(''))],
    place = (text: string, index: ReadonlyMap<string, number>): number =>
      [...text].reduce((at, l) => at * sizes[l] + (index.get(l) ?? NaN), 0),
    out = new Float64Array([...output].reduce((n, l) => n * sizes[l], 1));
  const visit = (index: Map<string, number>): void => {
    const letter = letters[index.size];
    if (letter !== undefined) {
      for (let i = 0; i < sizes[letter]; i++) visit(new Map([...index, [letter, i]]));
      return;
    }
    out[place(output, index)] += inputs.reduce((p, text, i) => p * data[i][place(text, index)], 1);
  };
  visit(new Map());
  return out;
}

test('einsum is the sum over all letters, for random equations of one to four operands', async () => {
  await fc.assert(
    fc.asyncProperty(equations, async (equation) => {
      const { inputs, output, sizes, text } = equation;
      const b = new GraphBuilder(ops),
        shape = (letters: string): number[] => [...letters].map((l) => sizes[l]);
      const tensors = inputs.map((l, i) => b.input('input', `${i}`, { dtype: 'float64', shape: shape(l) })),
        y = einsum(text, ...tensors);
      assert.deepEqual(y.shape, shape(output));
      b.output('y', y);
      const data = inputs.map((l, i) => {
        const stream = new Stream(1, `${i}`);
        return Float64Array.from({ length: shape(l).reduce((n, d) => n * d, 1) }, (_, k) => stream.normal(0, k));
      });
      const executor = new ReferenceExecutor(),
        out = await executor.run(executor.load(b.build()), Object.fromEntries(data.map((d, i) => [`${i}`, d])));
      const wanted = loops(equation, data);
      assert.ok(
        wanted.every((v, i) => Math.abs(v - out['y'].data[i]) < 1e-10),
        `${text}: ${[...out['y'].data].join(' ')} is not ${[...wanted].join(' ')}`,
      );
    }),
    { numRuns: 300 },
  );
});

test('a matrix product is one node, and operands change places rather than be reordered', () => {
  for (const [text, nodes] of [
    ['ij,jk->ik', ['matmul']],
    ['ji,jk->ik', ['matmul']],
    ['ij,kj->ki', ['matmul']],
    ['bij,bjk->bik', ['matmul']],
    ['bij,bkj->bik', ['matmul']],
    ['btd,dh->bth', ['reshape', 'matmul', 'reshape']],
  ] as const) {
    const b = new GraphBuilder(ops),
      inputs = text.split('->')[0].split(',');
    einsum(text, ...inputs.map((l, i) => b.input('input', `${i}`, { dtype: 'float32', shape: [...l].map(() => 3) })));
    assert.deepEqual(
      b.nodes.map((n) => n.op),
      nodes,
      text,
    );
  }
});

test('a first dimension that varies at run time stays, or is summed out', () => {
  const b = new GraphBuilder(ops),
    n = b.input('input', 'n', { dtype: 'int32', shape: [] }),
    rows = { kind: 'bounded', bound: 8, count: n.id } as const;
  const x = b.input('input', 'x', { dtype: 'float32', shape: [rows, 3] }),
    y = b.input('input', 'y', { dtype: 'float32', shape: [rows, 5] }),
    w = b.input('input', 'w', { dtype: 'float32', shape: [3, 5] });
  assert.deepEqual(einsum('bi,ij->bj', x, w).shape, [rows, 5]);
  assert.deepEqual(einsum('ij,bi->bj', w, x).shape, [rows, 5]);
  assert.deepEqual(einsum('bi,bj->bij', x, y).shape, [rows, 3, 5]);
  assert.deepEqual(einsum('bi,bj->ij', x, y).shape, [3, 5]);
  assert.deepEqual(einsum('bi,bj,ij->b', x, y, w).shape, [rows]);
  assert.throws(() => einsum('bi,ij->jb', x, w), /columns of the result cannot vary at run time/);
  assert.throws(() => einsum('bi->ib', x), /varies at run time and must stay first/);
});

test('invalid equations and operands are refused by name', () => {
  const b = new GraphBuilder(ops),
    x = b.input('input', 'x', { dtype: 'float32', shape: [4, 6] }),
    w = b.input('input', 'w', { dtype: 'float32', shape: [5, 6] }),
    whole = b.input('input', 'whole', { dtype: 'int32', shape: [6, 5] });
  const cases: readonly (readonly [string, readonly Tensor[], RegExp])[] = [
    ['ij', [x], /einsum: "ij" is no equation[^]*'ij,jk->ik'/],
    ['...j->j', [x], /is no equation/],
    ['ij->ij->j', [x], /is no equation/],
    ['i1->i', [x], /is no equation/],
    [7 as never, [x], /einsum: 7 is no equation/],
    ['ii->i', [x], /'ii->i' has 'i' twice in operand 0/],
    ['ij->ii', [x], /'ij->ii' has 'i' twice in the result/],
    ['ij->ik', [x], /has 'k' in the result, but in no operand/],
    ['ij,jk->ik', [x], /has 2 operands, got 1/],
    ['ij->ij', [], /has 1 operands, got 0/],
    ['ijk->i', [x], /names 3 dimensions of operand 0, which is float32\[4, 6\]/],
    ['ij,jk->ik', [x, w], /'j' of 'ij,jk->ik' is 6, but dimension 0 of operand 1 is 5/],
    ['ij,jk->ik', [x, whole], /dtypes differ/],
  ];
  for (const [text, operands, message] of cases)
    assert.throws(
      () => einsum(text, ...operands),
      (e) => e instanceof UserError && message.test(e.message),
      text,
    );
  assert.throws(() => einsum('ij->j', 3 as never), UserError);
  assert.throws(() => einsum('ij,jk->ik', x, w), ShapeError);
});
