// Joins the rows of separate experts to one tensor in segments: the inverse of splitSegments. A task copies one
// segment.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, sameShape, showType, type Dim, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit, emit1, type Tensor } from '../../tensor.ts';
import { checkVector } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    joinSegments: JoinSegmentsAttrs;
  }
}

/** rows: bound of the result. usual: the expected number of rows. */
export type JoinSegmentsAttrs = { readonly rows: number; readonly usual: number };

export const joinSegmentsOp: Op<JoinSegmentsAttrs> = {
  // Segment e is the rows of input e + 1, then zeros; input 0: offsets.
  name: 'joinSegments',
  moves: 'all',
  infer([offsets, ...parts], { rows, usual }, ids): TensorType[] {
    checkVector('joinSegments', 'offsets', offsets, parts.length + 1);
    const [first] = parts,
      rest = first.shape.slice(1);
    for (const p of parts) {
      const varies = (d: Dim | undefined): boolean => typeof d === 'object' && d.kind === 'bounded';
      if (!varies(p.shape[0]) || !sameShape(p.shape.slice(1), rest) || p.dtype !== first.dtype) {
        throw new ShapeError(
          `joinSegments: rows of segments differ in more than their number: ` + `${parts.map(showType).join(', ')}`,
        );
      }
    }
    return [
      {
        dtype: first.dtype,
        shape: [
          { kind: 'segmented', bound: rows, segments: parts.length, offsets: ids[0], ...(usual !== rows && { usual }) },
          ...rest,
        ],
      },
    ];
  },
  grad({ inputs: [offsets, ...parts], douts: [d] }) {
    if (!d) return [null, ...parts.map(() => null)];
    const bounds = parts.map((p) => boundOf(p.shape[0]));
    const counts = parts.map((p) => {
      const lead = p.shape[0];
      return p.builder.tensor(typeof lead === 'object' && lead.kind === 'bounded' ? lead.count : -1);
    });
    return [null, ...emit('splitSegments', [d, offsets, ...counts], { bounds })];
  },
  lower: {
    kind: 'loops',
    build({ e, k: w, inTypes: [, ...types], inputs: [offsets, ...parts], outTypes: [o], outputs: [out] }) {
      const width = elements(o.shape.slice(1)),
        zero = e.const(0, o.dtype);
      return {
        grid: { extent: parts.length, work: null },
        body(g) {
          const from = w.scalar('index'),
            count = w.scalar('index'),
            size = w.scalar('index');
          return parts.map((part, i) =>
            w.when(e.eq(g, e.index(i)), [
              from.set(w.loadIndex(offsets, e.index(i))),
              size.set(e.add(w.loadIndex(offsets, e.index(i + 1)), [-1, from.get()])),
              count.set(e.min(size.get(), w.extent(types[i], 0))),
              w.vector(e.scale(count.get(), width), (c) => [
                w.store(out, e.add([width, from.get()], c), w.load(part, c)),
              ]),
              w.vector(e.add([width, size.get()], [-width, count.get()]), (c) => [
                w.store(out, e.add([width, from.get()], [width, count.get()], c), zero),
              ]),
            ]),
          );
        },
      };
    },
  },
};

/** For each expert its rows [at most .., ...rest] -> [rows in E segments of offsets, ...rest]. */
export const joinSegments = (parts: readonly Tensor[], offsets: Tensor, attrs: JoinSegmentsAttrs): Tensor =>
  emit1('joinSegments', [offsets, ...parts], attrs);
