// Writes a memory of what samples chose (recall.ts), in place. If several samples of a batch share a slot, the last one
// keeps it.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkMemory, slotOf, tagOf, wordsOf, type MemoryAttrs } from './recall.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    remember: MemoryAttrs;
  }
}

const WORK = 2; // of a word, in elements

export const rememberOp: Op<MemoryAttrs> = {
  // Before with the choices of these samples in their slots.
  name: 'remember',
  inPlaceOf: 0,
  infer([before, ids, choices], attrs) {
    checkMemory('remember', before, ids, attrs);
    const [rows, k] = choices.shape.map(boundOf);
    if (
      choices.dtype !== 'int32' ||
      choices.shape.length !== 2 ||
      k !== attrs.k ||
      rows !== boundOf(ids.shape[0]) * attrs.tokens
    ) {
      throw new ShapeError(
        `remember: needs int32 [${boundOf(ids.shape[0]) * attrs.tokens}, ${attrs.k}] choices, ` +
          `got ${showType(choices)}`,
      );
    }
    return [before];
  },
  // A task has some words of all rows and goes through the samples in order, so that no two tasks write the same word.
  lower: {
    kind: 'loops',
    update: true,
    build({ e, k: w, inputs: [, ids, choices], outputs: [memory], inTypes: [tm, ti], attrs }) {
      const { tokens, k, bits } = attrs,
        words = wordsOf(attrs),
        samples = boundOf(ti.shape[0]),
        slots = boundOf(tm.shape[0]),
        each = 32 / bits,
        all = tokens * k;
      return {
        grid: { extent: words, work: WORK * Math.max(1, samples) },
        body(word) {
          const slot = w.scalar('index'),
            value = w.scalar('uint32'),
            id = (b: Expr): Expr => w.load(ids, b);
          const at = (): Expr => e.add([words, slot.get()], word),
            first = e.eq(word, e.index(0));
          const part = (b: Expr, i: number): Expr => {
            const choice = e.add([each, word], i - each),
              there = e.and(e.le(e.index(0), choice), e.lt(choice, e.index(all)));
            const read = e.cast(w.load(choices, e.add(e.scale(b, all), e.select(there, choice, e.index(0)))), 'uint32');
            return e.op('mul', [e.select(there, read, e.const(0, 'uint32')), e.const(2 ** (bits * i), 'uint32')]);
          };
          return [
            w.loop(samples, (b) => [
              slot.set(slotOf(e, id(b), slots)),
              value.set(e.select(first, tagOf(e, id(b)), e.const(0, 'uint32'))),
              ...Array.from({ length: each }, (_, i) => value.set(e.op('add', [value.get(), part(b, i)]))),
              w.store(memory, at(), value.get()),
            ]),
          ];
        },
      };
    },
  },
};

/**
 * before uint32 [slots, words], ids int32 [samples], choices int32 [samples * tokens, k], each below 2^bits -> the
 * memory after.
 */
export const remember = (before: Tensor, ids: Tensor, choices: Tensor, attrs: MemoryAttrs): Tensor =>
  emit1('remember', [before, ids, choices], attrs);
