// Sums in parts. Ranks divide the samples of a batch, so a sum over samples is defined as the sums over a fixed number
// of ranges of samples, joined as a tree: ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)). Then its bits do not
// depend on how many ranks compute it. Range p of B samples begins at sample floor(B p / parts). The sum of an empty
// range is +0. Of rows that are segmented by sample, range p begins at segment p segments / parts: whoever fills the
// segments gives each range its samples, and leaves the other segments empty (session/rows.ts).

import { ShapeError } from './errors.ts';
import { boundOf, showDim, type Dim } from './shape.ts';

/** parts: the number of ranges, a power of two. sample: how many elements of the summed range belong to a sample. */
export type Parts = {
  readonly parts: number;
  readonly sample: number;
};

/**
 * The parts of a sum in a kernel. Without `offsets`, part p begins at sample floor(samples p / parts). With it, at
 * element offsets[step p] * sample, where `offsets` is an int32 buffer of the kernel.
 */
export type KernelParts = Parts & { readonly offsets?: number; readonly step?: number };

/** As attributes of an op: absent where the sum is one chain. */
export type PartsAttrs = Partial<Parts>;

/** The parts of the sums of a new session. Checkpoints of versions without parts go on with one. */
export const PARTS = 8;

/** The most parts of a sum that the matrix cores can compute. */
export const MOST_PARTS = 16;

/** Throws ShapeError for parts into which the sum of `op` over dimension `dim` cannot be divided. */
export function checkParts(op: string, attrs: PartsAttrs, dim: Dim): void {
  const { parts = 1, sample = 1 } = attrs,
    power = Number.isInteger(Math.log2(parts)) && parts <= MOST_PARTS,
    counted = typeof dim !== 'number',
    segments = counted && dim.kind === 'segmented' ? dim.segments : parts;
  if (!power || !(sample >= 1) || boundOf(dim) % sample !== 0 || (counted && sample !== 1) || segments % parts !== 0)
    throw new ShapeError(
      `${op}: a sum over ${showDim(dim)} elements cannot have ${parts} parts of samples of ${sample} elements`,
      `1, 2, 4, 8 or ${MOST_PARTS} parts; a size that samples divide; samples of 1 element if the size is counted; ` +
        'as many segments in each part',
    );
}

export const partsOf = ({ parts = 1, sample = 1 }: PartsAttrs): Parts | null => (parts > 1 ? { parts, sample } : null);

/**
 * The parts of a sum over dimension `dim`, with `each` elements for every element of it, in a kernel. buffer: gives the
 * kernel's buffer of the dimension's offsets.
 */
export function kernelParts(
  attrs: PartsAttrs,
  dim: Dim,
  each: number,
  buffer: (offsets: number) => number,
): KernelParts | null {
  const own = partsOf(attrs);
  if (!own) return null;
  if (typeof dim === 'number' || dim.kind === 'bounded') return { ...own, sample: own.sample * each };
  return { parts: own.parts, sample: each, offsets: buffer(dim.offsets), step: dim.segments / own.parts };
}

/**
 * The first element of each range, and the end of the last, of `count` elements. offsets: of rows that are segmented by
 * sample.
 */
export const partStarts = (count: number, { parts, sample }: Parts, offsets?: ArrayLike<number>): number[] =>
  Array.from({ length: parts + 1 }, (_, p) =>
    offsets
      ? offsets[((offsets.length - 1) / parts) * p] * sample
      : Math.floor((Math.floor(count / sample) * p) / parts) * sample,
  );
