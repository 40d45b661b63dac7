// Cases of the ops that route choices in ranges: few choices in several ranges, some of them empty; and many choices,
// in as many ranges as a model would use.
import fc from 'fast-check';
import { admit } from '../../../src/graph/ops/moe/admit.ts';
import { admitAll } from '../../../src/graph/ops/moe/admitAll.ts';
import { choiceStarts } from '../../../src/graph/ops/moe/choiceStarts.ts';
import { dispatch } from '../../../src/graph/ops/moe/dispatch.ts';
import { histogram } from '../../../src/graph/ops/moe/histogram.ts';
import { permute, type Permutation } from '../../../src/graph/ops/moe/permute.ts';
import { permuteUnless } from '../../../src/graph/ops/moe/permuteUnless.ts';
import { segmentExpand } from '../../../src/graph/ops/moe/segmentExpand.ts';
import { segmentRank } from '../../../src/graph/ops/moe/segmentRank.ts';
import { splitRows } from '../../../src/graph/ops/moe/splitRows.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import type { Case, InputSpec } from '../harness.ts';
import type { Family } from '../shapes.ts';
import { limited } from './capacity.ts';
import { routed, type Routed } from './experts.ts';

const ranges = fc.constantFrom(2, 3, 4, 8, 16);

/** Every number of a permutation, if the number of tokens is fixed; otherwise rows past the count are undefined. */
const inOrder = ({ t }: Routed, p: Permutation): Tensor[] =>
  typeof t.dim === 'number' ? [p.offsets, p.order, p.inverse, p.expert] : [p.offsets];

/** Rows [tokens, width] and a bias for each expert, which show where rows lie and to which expert they belong. */
const shown = (r: Routed): InputSpec[] => [
  { name: 'x', shape: [r.t.dim, r.width], grad: false },
  { name: 'b', shape: [r.experts, r.width], grad: false },
];

const known = (share: number): InputSpec => ({
  name: 'known',
  dtype: 'int32',
  shape: [5],
  value: ({ uniform }) => Number(uniform < share),
});

/** Many choices of some experts, of which few get most; a seventh of the numbers are outside. */
const many = fc
  .record({ tokens: fc.constantFrom(4500, 9000), k: fc.constantFrom(2, 4), experts: fc.constantFrom(3, 40, 300) })
  .map(({ tokens, k, experts }) => ({
    experts,
    inputs: [
      {
        name: 'indices',
        dtype: 'int32',
        shape: [tokens, k],
        value: ({ uniform }) => Math.floor(uniform ** 3 * (experts + 6)) - 3,
      } satisfies InputSpec,
      {
        name: 'capacity',
        dtype: 'int32',
        shape: [experts],
        value: ({ uniform }) => Math.floor((uniform * 2 * tokens * k) / experts),
      } satisfies InputSpec,
    ],
    rows: tokens * k,
  }));

export const families: readonly Family[] = [
  {
    op: 'histogram',
    cases: fc.tuple(routed(), ranges, fc.constantFrom(null, 0.5, 1)).map(([r, ranges, share]) => ({
      inputs: [...r.inputs, ...(share === null ? [] : [known(share)])],
      build: (all) => {
        const [indices, given = null] = all.slice(r.t.counts.length) as [Tensor, Tensor?];
        return histogram(indices, given, { experts: r.experts, ranges });
      },
    })),
  },
  {
    op: 'choiceStarts',
    cases: fc.tuple(ranges, fc.constantFrom(1, 2, 5, 64)).map(([ranges, experts]) => ({
      inputs: [{ name: 'counts', dtype: 'int32', shape: [ranges, experts] }],
      build: ([counts]) => choiceStarts(counts),
    })),
  },
  {
    op: 'permute',
    name: 'in ranges',
    cases: fc.tuple(routed(), ranges).map(([r, ranges]) => ({
      inputs: r.inputs,
      build: (all) => inOrder(r, permute(all[r.t.counts.length], r.experts, ranges)),
    })),
  },
  {
    op: 'permuteUnless',
    name: 'in ranges',
    cases: fc.tuple(routed(), ranges, ranges, fc.constantFrom(0.9, 1)).map(([r, ranges, others, share]) => ({
      inputs: [...r.inputs, known(share)],
      build: (all) => {
        const [indices, given] = all.slice(r.t.counts.length),
          before = permute(indices, r.experts, others);
        return inOrder(r, permuteUnless(indices, before, given, r.experts, ranges));
      },
    })),
  },
  {
    op: 'admit',
    name: 'in ranges',
    runs: 24,
    cases: fc.tuple(limited(), ranges, ranges).map(([r, ranges, others]): Case => ({
      inputs: [...r.inputs, ...shown(r)],
      build: (all) => {
        const [indices, capacity, scores, x, b] = all.slice(r.t.counts.length),
          p = permute(indices, r.experts, others),
          rank = r.ranked ? segmentRank(scores, p.order, p.expert, p.offsets) : null,
          a = admit(p, capacity, rank, { rows: r.rows, padded: r.padded, spill: r.spill }, ranges),
          y = dispatch(x, a.order, a.offsets, a.inverse, { k: r.k, gaps: true });
        return [
          a.offsets,
          a.beyond,
          y,
          segmentExpand(b, a.expert, y),
          ...(typeof r.t.dim === 'number' ? [a.inverse] : []),
        ];
      },
    })),
  },
  {
    op: 'admitAll',
    name: 'in ranges',
    runs: 24,
    cases: fc.tuple(limited(), ranges, ranges, fc.constantFrom(0.5, 1)).map(([r, ranges, others, room]): Case => ({
      inputs: [...r.inputs, ...shown(r)],
      build: (all) => {
        const [indices, capacity, , x, b] = all.slice(r.t.counts.length),
          beyond = Math.ceil(room * r.t.bound * r.k),
          p = permute(indices, r.experts, others),
          a = admitAll(p, capacity, { rows: r.rows, beyond, padded: r.padded }, ranges),
          [kept, rest] = splitRows(
            dispatch(x, a.order, a.offsets, a.inverse, { k: r.k, gaps: true }),
            a.inside.offsets,
            a.outside.offsets,
            a.outside.expert,
          );
        return [
          ...[a.offsets, a.inside.offsets, a.outside.offsets, a.beyond, kept, rest],
          segmentExpand(b, a.inside.expert, kept),
          segmentExpand(b, a.outside.expert, rest),
          ...(typeof r.t.dim === 'number' ? [a.inverse] : []),
        ];
      },
    })),
  },
  {
    op: 'permute',
    name: 'of many choices',
    runs: 6,
    cases: many.map(({ inputs, experts }) => ({
      inputs: inputs.slice(0, 1),
      build: ([indices]) => {
        const p = permute(indices, experts);
        return [p.offsets, p.order, p.inverse, p.expert];
      },
    })),
  },
  {
    op: 'admit',
    name: 'of many choices',
    runs: 6,
    cases: many.map(({ inputs, experts, rows }) => ({
      inputs,
      build: ([indices, capacity]) => {
        const a = admit(permute(indices, experts), capacity, null, { rows, padded: false, spill: false });
        return [a.offsets, a.inverse, a.beyond];
      },
    })),
  },
];
