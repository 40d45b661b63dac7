// Cases of the ops that find a rank's part of what all ranks know: its part of a tensor, and its rows of a routing. The
// ops that exchange data between ranks are tested in tests/passes/ranks.test.ts and tests/device/ranks.
import fc from 'fast-check';
import { admit } from '../../../src/graph/ops/moe/admit.ts';
import { permute, type Permutation } from '../../../src/graph/ops/moe/permute.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { addOps } from '../../../src/graph/ops/index.ts';
import { rankOps } from '../../../src/graph/ops/ranks/index.ts';
import { ownOffsets } from '../../../src/graph/ops/ranks/ownOffsets.ts';
import { ownPart } from '../../../src/graph/ops/ranks/ownPart.ts';
import { rankCounts } from '../../../src/graph/ops/ranks/rankCounts.ts';
import { rankRows } from '../../../src/graph/ops/ranks/rankRows.ts';
import { rowSegments } from '../../../src/graph/ops/ranks/rowSegments.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import type { Case, InputSpec } from '../harness.ts';
import { fixedShape, type Family } from '../shapes.ts';

addOps(rankOps);

const RANKS = [1, 2, 4, 8];

/** A routing of a global batch, as ranks get it: with a capacity or without, with empty rows or without. */
interface Routing {
  readonly ranks: number;
  readonly rank: number;
  readonly tokens: number; // of each rank
  readonly k: number;
  readonly experts: number; // in each rank's slots
  readonly how: 'dropless' | 'drop' | 'padded';
}

const routings = fc
  .record({
    ranks: fc.constantFrom(...RANKS),
    part: fc.nat(7),
    tokens: fc.constantFrom(1, 2, 5, 16),
    k: fc.constantFrom(1, 2, 3),
    experts: fc.constantFrom(1, 2, 5),
    how: fc.constantFrom('dropless' as const, 'drop' as const, 'padded' as const),
  })
  .map(({ part, ...r }): Routing => ({ ...r, rank: part % r.ranks }));

const inputsOf = ({ ranks, rank, tokens, k, experts }: Routing): InputSpec[] => {
  const all = experts * ranks;
  return [
    {
      name: 'indices',
      dtype: 'int32',
      shape: [tokens * ranks, k],
      value: ({ uniform }) => Math.floor(uniform ** 2 * all),
    },
    {
      name: 'capacity',
      dtype: 'int32',
      shape: [all],
      value: ({ uniform }) => Math.floor((uniform * 4 * tokens * k) / experts),
    },
    { name: 'slots', dtype: 'int32', shape: [all], data: Array.from({ length: all }, (_, i) => all - 1 - i) },
    { name: 'rank', dtype: 'int32', shape: [], data: [rank] },
  ];
};

function sorted({ ranks, tokens, k, experts, how }: Routing, [indices, capacity]: readonly Tensor[]): Permutation {
  const all = permute(indices, experts * ranks);
  if (how === 'dropless') return all;
  const rows = 8 * tokens * k * ranks + 8;
  return { ...all, ...admit(all, capacity, null, { rows, padded: how === 'padded', spill: false }) };
}

const family = (op: string, build: (r: Routing, inputs: readonly Tensor[], p: Permutation) => Tensor[]): Family => ({
  op,
  cases: routings.map((r): Case => ({ inputs: inputsOf(r), build: (inputs) => build(r, inputs, sorted(r, inputs)) })),
});

export const families: readonly Family[] = [
  {
    op: 'ownPart',
    cases: fc
      .record({ shape: fixedShape(1, 3), axis: fc.nat(2), ranks: fc.constantFrom(...RANKS), part: fc.nat(7) })
      .map(({ shape, axis, ranks, part }) => {
        const at = axis % shape.length;
        return {
          inputs: [
            { name: 'x', shape: shape.map((d, i) => (i === at ? d * ranks : d)), grad: false },
            { name: 'rank', dtype: 'int32', shape: [], data: [part % ranks] },
          ],
          build: ([x, rank]) => ownPart(mul(x, x), rank, { axis: at, ranks }),
        };
      }),
  },
  family('rankCounts', ({ ranks, tokens, k }, _, p) => [
    rankCounts(p.order, p.offsets, { ranks, choices: tokens * k }),
  ]),
  family('rankRows', ({ ranks, tokens, k, how }, [, , , rank], p) => {
    const choices = tokens * k,
      own = rankRows(p, rankCounts(p.order, p.offsets, { ranks, choices }), rank, { choices });
    // Where choices are dropped, the last rows are undefined.
    return how === 'dropless' ? [own.offsets, own.order, own.inverse] : [own.offsets, own.inverse];
  }),
  family('ownOffsets', ({ ranks }, [, , slots, rank], p) => [ownOffsets(p.offsets, slots, rank, { ranks })]),
  {
    op: 'rowSegments',
    cases: fc.array(fc.nat(9), { minLength: 1, maxLength: 9 }).map((sizes): Case => {
      const offsets = sizes.reduce((all, n) => [...all, all[all.length - 1] + n], [0]),
        rows = offsets[offsets.length - 1];
      return {
        inputs: [{ name: 'offsets', dtype: 'int32', shape: [offsets.length], data: offsets }],
        build: ([o]) => rowSegments(o, { rows }),
      };
    }),
  },
];
