// Cases of the ops that store choices by sample id: known and unknown samples, ids that share a slot, every width in
// which a choice is packed.
import fc from 'fast-check';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { cast } from '../../../src/graph/ops/elementwise/cast.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { permute, type Permutation } from '../../../src/graph/ops/moe/permute.ts';
import { permuteUnless } from '../../../src/graph/ops/moe/permuteUnless.ts';
import { bitsOf, recall, recalls, wordsOf, type MemoryAttrs } from '../../../src/graph/ops/moe/recall.ts';
import { remember } from '../../../src/graph/ops/moe/remember.ts';
import { topKUnless } from '../../../src/graph/ops/moe/topKUnless.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import type { Case, InputSpec } from '../harness.ts';
import type { Family } from '../shapes.ts';

interface Drawn {
  readonly samples: number;
  readonly tokens: number;
  readonly experts: number;
  readonly layout: MemoryAttrs;
  readonly inputs: readonly InputSpec[];
}

/** Fewer or many more ids than slots, some ids twice. About half of the ids are in the memory. */
const drawn: fc.Arbitrary<Drawn> = fc
  .tuple(
    fc.constantFrom(1, 2, 3, 8, 17),
    fc.constantFrom(1, 2, 5, 16),
    fc.constantFrom(1, 2, 3),
    fc.constantFrom(3, 4, 5, 16, 17, 256, 257, 70_000),
    fc.constantFrom(1, 3, 16, 40),
    fc.constantFrom(4, 30, 2 ** 31 - 2),
    fc.infiniteStream(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })),
  )
  .map(([samples, tokens, k, experts, slots, most, random]) => {
    const bits = bitsOf(experts),
      words = wordsOf({ tokens, k, bits }),
      draw = (n: number): number => Math.floor(Number(random.next().value) * n);
    const ids = Array.from({ length: samples }, () => draw(most));
    const memory = Array.from({ length: slots * words }, () => draw(2 ** 32));
    for (const id of ids) if (draw(2)) memory[(id % slots) * words] = id + 1;
    return {
      samples,
      tokens,
      experts,
      layout: { tokens, k, bits },
      inputs: [
        { name: 'memory', dtype: 'uint32', shape: [slots, words], data: memory },
        { name: 'ids', dtype: 'int32', shape: [samples], data: ids },
        {
          name: 'choices',
          dtype: 'int32',
          shape: [samples * tokens, k],
          data: Array.from({ length: samples * tokens * k }, () => draw(experts)),
        },
        {
          name: 'known',
          dtype: 'int32',
          shape: [samples],
          data: Array.from({ length: samples }, () => Number(draw(4) > 0)),
        },
      ],
    };
  });

const cases = (
  build: (inputs: readonly Tensor[], d: Drawn) => Tensor | readonly Tensor[],
  more: (d: Drawn) => readonly InputSpec[] = () => [],
  most = Infinity,
): fc.Arbitrary<Case> =>
  drawn
    .filter((d) => d.experts <= most)
    .map((d) => ({ inputs: [...d.inputs, ...more(d)], build: (inputs) => build(inputs, d) }));
const inOrder = (p: Permutation): Tensor[] => [p.offsets, p.order, p.inverse, p.expert];
/** Scores with few different values, so that some are equal, and with NaN and -Infinity. */
const scores = (d: Drawn): readonly InputSpec[] => [
  {
    name: 'x',
    shape: [d.samples * d.tokens, d.experts],
    grad: false,
    value: ({ uniform, normal }) => (uniform < 0.1 ? NaN : uniform < 0.2 ? -Infinity : Math.round(normal * 3)),
  },
];

export const families: readonly Family[] = [
  { op: 'recalls', runs: 16, cases: cases(([memory, ids], d) => recalls(memory, ids, d.layout)) },
  { op: 'recall', runs: 16, cases: cases(([memory, ids], d) => recall(memory, ids, d.layout)) },
  { op: 'remember', runs: 16, cases: cases(([memory, ids, choices], d) => remember(memory, ids, choices, d.layout)) },
  // The memory is read before `remember` writes it in place, and after.
  {
    op: 'remember',
    name: 'beside readers of the memory before and after',
    runs: 16,
    cases: cases(([memory, ids, choices], { layout }) => {
      const after = remember(memory, ids, choices, layout);
      return [recall(memory, ids, layout), recalls(after, ids, layout), recall(after, ids, layout)];
    }),
  },
  { op: 'topKUnless', runs: 16, cases: cases(([, , choices, known, x]) => topKUnless(x, choices, known), scores, 256) },
  {
    op: 'permuteUnless',
    runs: 16,
    cases: cases(
      ([, , choices, known], { experts }) => inOrder(permuteUnless(choices, permute(choices, experts), known, experts)),
      undefined,
      256,
    ),
  },
  // The given permutation is that of other choices. permuteUnless must return it if all samples are known, and sort
  // again otherwise.
  {
    op: 'permuteUnless',
    name: 'of other choices',
    runs: 16,
    cases: cases(
      ([, , choices, known], { experts }) =>
        inOrder(
          permuteUnless(
            add(choices, cast(mul(cast(choices, 'float32'), 0), 'int32')),
            permute(mul(choices, 0), experts),
            known,
            experts,
          ),
        ),
      undefined,
      256,
    ),
  },
];
