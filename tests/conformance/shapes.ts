// Random shapes for conformance cases: empty, with one element, with odd sizes, and with a first dimension whose size
// is known only at run time.
import fc from 'fast-check';
import type { Case, DimSpec, InputSpec } from './harness.ts';

/** Cases of one op. table.test.ts checks that every op has a family. */
export interface Family {
  readonly op: string;
  /** What distinguishes this family, if an op has several. */
  readonly name?: string;
  readonly cases: fc.Arbitrary<Case>;
  /** The number of cases that are drawn for the test on devices. */
  readonly runs?: number;
  /**
   * The number of cases whose gradients are compared with finite differences in the reference. Default: `runs`, at
   * most 12.
   */
  readonly differences?: number;
}

export const size: fc.Arbitrary<number> = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(1, 2, 3, 4, 5, 7, 8, 15, 16, 17) },
  { weight: 2, arbitrary: fc.constantFrom(0, 31, 33, 64, 67, 100) },
);

/** At least one element. */
export const someSize: fc.Arbitrary<number> = size.filter((n) => n > 0);

const LIMIT = 12_000; // elements

export const volume = (shape: readonly DimSpec[]): number =>
  shape.reduce<number>((n, d) => n * (typeof d === 'number' ? d : d.bound), 1);

export const fixedShape = (minRank = 0, maxRank = 4, dim = size): fc.Arbitrary<number[]> =>
  fc.array(dim, { minLength: minRank, maxLength: maxRank }).filter((s) => volume(s) <= LIMIT);

/** A shape, and the inputs that hold the count or offsets of its first dimension, if this varies. */
export interface AnyShape {
  readonly shape: readonly DimSpec[];
  readonly counts: readonly InputSpec[];
}

/** Random shapes; in one of three the first dimension is bounded or segmented. */
export function anyShape(minRank = 0, maxRank = 4, dim = size): fc.Arbitrary<AnyShape> {
  return fc
    .tuple(
      fixedShape(minRank, maxRank, dim),
      fc.constantFrom('fixed', 'fixed', 'fixed', 'fixed', 'bounded', 'segmented'),
      fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 4, maxLength: 4 }),
    )
    .map(([shape, kind, cuts]) => {
      if (kind === 'fixed' || shape.length === 0) return { shape, counts: [] };
      const [bound, ...rest] = shape;
      const at = cuts.map((f) => Math.round(f * bound)).sort((a, b) => a - b);
      return kind === 'bounded'
        ? { shape: [{ bound, count: 'n' }, ...rest], counts: [{ name: 'n', dtype: 'int32', shape: [], data: [at[0]] }] }
        : {
            shape: [{ bound, segments: 3, offsets: 'n' }, ...rest],
            counts: [{ name: 'n', dtype: 'int32', shape: [4], data: [0, ...at.slice(1)] }],
          };
    });
}

/** Random lists of `n` shapes that can be broadcast together. */
export function broadcast(
  n: number,
): fc.Arbitrary<{ shapes: readonly (readonly DimSpec[])[]; counts: readonly InputSpec[] }> {
  const cut = fc.record({
    drop: fc.nat(4),
    ones: fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 4, maxLength: 4 }),
  });
  return fc
    .tuple(anyShape(), fc.nat(n - 1), fc.array(fc.option(cut, { freq: 2 }), { minLength: n, maxLength: n }))
    .map(([{ shape, counts }, whole, cuts]) => ({
      counts,
      shapes: cuts.map((c, i) => {
        if (!c || i === whole) return shape;
        const kept = shape.slice(
          Math.min(c.drop, shape.length) === shape.length && c.drop > 2 ? 0 : Math.min(c.drop, shape.length),
        );
        return kept.map((d, j) => (c.ones[j] === 0 ? 1 : d));
      }),
    }));
}

/** The inputs of a case without those that hold counts. */
export const afterCounts = <T>(counts: readonly InputSpec[], all: readonly T[]): T[] => all.slice(counts.length);
