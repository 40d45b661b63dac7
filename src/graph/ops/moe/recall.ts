// Reads a memory of what samples chose, by their ids. A memory is uint32 [slots, 1 + words]. Each row belongs to one
// sample: first its id + 1 (0: nobody's), then its choices, several in one word. The slot of a sample is its id mod
// slots; a later sample replaces the earlier one in its slot.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType, type TensorType } from '../../../base/shape.ts';
import type { Expr, Exprs } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    recalls: MemoryAttrs;
    recall: MemoryAttrs;
  }
}

/** The layout of a row: k choices for each of `tokens` tokens, each choice in `bits` bits. */
export type MemoryAttrs = { readonly tokens: number; readonly k: number; readonly bits: number };

/**
 * Bits of a choice among so many experts: a power of 2, so that no choice lies in two words. 8 bits for 17 to 256
 * experts.
 */
export const bitsOf = (experts: number): number => [1, 2, 4, 8, 16].find((bits) => experts <= 2 ** bits) ?? 32;
/** Words of a row: one for the id, and those of the choices. */
export const wordsOf = ({ tokens, k, bits }: MemoryAttrs): number => 1 + Math.ceil((tokens * k * bits) / 32);

/** Checks that a memory has rows of this layout, and that there is an id for each sample. */
export function checkMemory(op: string, memory: TensorType, ids: TensorType, attrs: MemoryAttrs): void {
  const [slots, words] = memory.shape.map(boundOf);
  if (memory.dtype !== 'uint32' || memory.shape.length !== 2 || !(slots >= 1) || words !== wordsOf(attrs)) {
    throw new ShapeError(`${op}: needs a memory uint32 [slots, ${wordsOf(attrs)}], got ${showType(memory)}`);
  }
  if (ids.dtype !== 'int32' || ids.shape.length !== 1 || typeof ids.shape[0] !== 'number')
    throw new ShapeError(`${op}: needs int32 [samples] ids, got ${showType(ids)}`);
}

/** The slot of an id. */
export const slotOf = (e: Exprs, id: Expr, slots: number): Expr =>
  e.cast(e.op('mod', [e.cast(id, 'uint32'), e.const(slots, 'uint32')]), 'index');
/** The first word of the slot if it holds the sample with this id. */
export const tagOf = (e: Exprs, id: Expr): Expr => e.op('add', [e.cast(id, 'uint32'), e.const(1, 'uint32')]);

export const recallsOp: Op<MemoryAttrs> = {
  // 1 for each sample of which the memory knows the choices, else 0.
  name: 'recalls',
  infer([memory, ids], attrs) {
    checkMemory('recalls', memory, ids, attrs);
    return [{ dtype: 'int32', shape: ids.shape }];
  },
  lower: {
    kind: 'map',
    weight: 8,
    at({ e, inputs: [memory, ids] }, [b]) {
      const id = ids.at([b]),
        found = memory.at([slotOf(e, id, boundOf(memory.type.shape[0])), e.index(0)]),
        tag = tagOf(e, id);
      const both = e.and(e.eq(found, tag), e.op('ne', [tag, e.const(0, 'uint32')]));
      return e.select(both, e.const(1, 'int32'), e.const(0, 'int32'));
    },
  },
};

export const recallOp: Op<MemoryAttrs> = {
  // The choices that the memory has in the slots of these samples, whoever they belong to.
  name: 'recall',
  infer([memory, ids], attrs) {
    checkMemory('recall', memory, ids, attrs);
    return [{ dtype: 'int32', shape: [boundOf(ids.shape[0]) * attrs.tokens, attrs.k] }];
  },
  lower: {
    kind: 'map',
    weight: 8,
    stored: () => true,
    at({ e, inputs: [memory, ids], attrs: { tokens, k, bits } }, [row, j]) {
      const b = e.div(row, tokens),
        choice = e.add([k, e.mod(row, tokens)], j),
        each = 32 / bits;
      const word = memory.at([slotOf(e, ids.at([b]), boundOf(memory.type.shape[0])), e.add(1, e.div(choice, each))]);
      if (bits === 32) return e.cast(word, 'int32');
      const shift = e.cast(e.scale(e.mod(choice, each), bits), 'uint32');
      return e.cast(e.op('mod', [e.op('shr', [word, shift]), e.const(2 ** bits, 'uint32')]), 'int32');
    },
  },
};

/** memory uint32 [slots, words], ids int32 [samples] -> int32 [samples]. An id of -1 is never known. */
export const recalls = (memory: Tensor, ids: Tensor, attrs: MemoryAttrs): Tensor =>
  emit1('recalls', [memory, ids], attrs);
/** The same -> int32 [samples * tokens, k]. */
export const recall = (memory: Tensor, ids: Tensor, attrs: MemoryAttrs): Tensor =>
  emit1('recall', [memory, ids], attrs);
