// Masked tokens: a layer gives zeros for them, and for the others the bits of a batch without them: output, losses,
// statistics, gradients, states after the step; for every router, dispatch and setting. Masked rows of x are NaN.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { max } from '../../../src/graph/ops/reduce/max.ts';
import { reshape } from '../../../src/graph/ops/shape/reshape.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import { D, layerOf, openDevices, settings, type Settings } from './any-layer.ts';
import type { Numbers } from './layer.ts';
import { rowsGraph, runRows } from './rows.ts';

const open = await openDevices();

/** A mask of some tokens, of which none, a share or all are left out, and the dimension of the tokens. */
const masked = fc
  .tuple(
    fc.constantFrom(1, 2, 15, 43, 64),
    fc.constantFrom(0, 0.2, 0.5, 0.9, 1),
    fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true })),
    fc.constantFrom('fixed' as const, 'counted' as const, 'segmented' as const),
  )
  .map(([count, share, numbers, kind]) => ({
    mask: Array.from({ length: count }, () => Number(numbers.next().value) >= share),
    tokens: {
      count,
      ...(kind !== 'fixed' && { bound: count + 21 }),
      ...(kind === 'segmented' && { offsets: [0, 0, count >> 1, count, count] }),
    },
  }));

/** The rows of [tokens, D] that the mask keeps; checks that the others are 0. */
function keptRows(values: readonly number[], mask: readonly boolean[]): number[] {
  return mask.flatMap((kept, r) => {
    const row = values.slice(r * D, (r + 1) * D);
    if (!kept) assert.ok(row.length === D && row.every((v) => Object.is(v, 0)), `row ${r}: ${row.join()}`);
    return kept ? row : [];
  });
}

for (const [name, device] of open)
  test(`${name}: tokens beside masked ones have the bits of a batch without these`, async () => {
    await fc.assert(
      fc.asyncProperty(settings, masked, fc.boolean(), async (set, { mask, tokens }, training) => {
        const names = mask.flatMap((kept, r) => (kept ? [r] : [])),
          options = { training, ids: true },
          got = await runRows(layerOf(set), device, tokens, { ...options, mask }),
          // A fixed number of tokens is at least 1.
          alone = { count: names.length, ...(names.length === 0 && { bound: 1 }) },
          expected = await runRows(layerOf(set), device, alone, { ...options, names });
        const own: Numbers = Object.fromEntries(
          Object.entries(got).map(([output, values]) => [
            output,
            output === 'y' || output === 'grad/x' ? keptRows(values, mask) : values,
          ]),
        );
        assert.deepEqual(own, expected);
      }),
      // The C compiler takes most of the time.
      { numRuns: name === 'native' ? 10 : 60, seed: 4 },
    );
  });

const SET: Settings = {
  router: 'top-k',
  dispatch: 'ragged',
  capacity: 0.77,
  overflow: 'drop',
  priority: 'position',
  recompute: false,
  chunks: 1,
  topK: 2,
  modules: false,
  free: false,
};

/** A layer that gets its tokens in these leading dimensions. */
class Shaped {
  readonly moe = layerOf(SET);
  readonly #x: readonly number[];
  readonly #mask: readonly number[];
  constructor(x: readonly number[], mask = x) {
    this.#x = x;
    this.#mask = mask;
  }
  forward(x: Tensor, _: Tensor | undefined, mask?: Tensor): Tensor {
    const y = this.moe.forward(reshape(x, [...this.#x, D]), undefined, mask && reshape(mask, this.#mask));
    return reshape(y, [40, D]);
  }
}
const mask = Array.from({ length: 40 }, (_, t) => t % 3 !== 1);

test('leading dimensions of x and of the mask are tokens', async () => {
  for (const device of open.values()) {
    const expected = await runRows(new Shaped([40]), device, { count: 40 }, { mask });
    assert.ok(expected['stat:moe/dropped'].some((n) => n > 0));
    assert.deepEqual(await runRows(new Shaped([5, 8]), device, { count: 40 }, { mask }), expected);
  }
});

test('a mask that does not fit is refused by name', () => {
  for (const shape of [
    [8, 5],
    [40, 1],
  ])
    assert.throws(() => rowsGraph(new Shaped([5, 8], shape), { count: 40 }, { mask }), /MoE: the mask bool\[/u);
  const floats = { moe: layerOf(SET), forward: (x: Tensor): Tensor => floats.moe.forward(x, undefined, max(x, [1])) };
  assert.throws(() => rowsGraph(floats, { count: 40 }), /MoE: the mask float32\[40\] is not a bool/u);
});
