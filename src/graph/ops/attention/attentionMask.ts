// Which keys a query may see, apart from causality: a mask (bool: true where it may; float: added to the scores,
// -Infinity where it may not), and a number of keys for each batch entry. Both come after the other inputs of an
// attention op. A query that sees no key gets 0 and passes no gradient on.
import { ShapeError } from '../../../base/errors.ts';
import { showType, stridesOf, type Dim, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { LoopCall } from '../../op.ts';
import { emit1, scalar, type Tensor } from '../../tensor.ts';
import type { Sample, Sizes } from './attentionSamples.ts';
import type { AttentionAttrs, TileWriter } from './attentionTile.ts';
import { unbroadcast } from '../elementwise/elementwise.ts';

type Masked = Pick<AttentionAttrs, 'masked' | 'lengths'>;

/** The input numbers of mask and lengths, after `base` other inputs. */
export const places = ({ masked, lengths }: Masked, base: number): { mask: number; lengths: number } => ({
  mask: masked ? base : -1,
  lengths: lengths ? base + (masked ? 1 : 0) : -1,
});

/** Strides of a mask along batch, head, query and key; 0 along a dimension that is repeated. */
export const stepsOf = (shape: readonly Dim[]): number[] => stridesOf(shape).map((s, i) => (shape[i] === 1 ? 0 : s));

export function checkMasks(
  op: string,
  types: readonly TensorType[],
  base: number,
  attrs: Omit<AttentionAttrs, 'causal'>,
  { form, B, H, T, S }: Sizes,
): void {
  if (!Number.isFinite(attrs.scale))
    throw new ShapeError(`${op}: scale must be a finite number, got ${String(attrs.scale)}`);
  if (form !== 'fixed' && (attrs.masked || attrs.lengths))
    throw new ShapeError(
      `${op}: rows whose number varies take no mask and no lengths`,
      'leave rows out: each segment has the rows that are to be seen, and no others',
    );
  const at = places(attrs, base),
    mask = types[at.mask],
    lengths = types[at.lengths],
    whole = [B, H, T, S];
  if (
    attrs.masked &&
    (mask.shape.length !== 4 ||
      mask.shape.some((d, i) => d !== 1 && d !== whole[i]) ||
      (mask.dtype !== 'bool' && mask.dtype !== types[0].dtype))
  ) {
    throw new ShapeError(
      `${op}: a mask must be bool or ${types[0].dtype} [${whole.join(' or 1, ')} or 1], got ` + `${showType(mask)}`,
    );
  }
  if (attrs.lengths && (lengths.dtype !== 'int32' || lengths.shape.length !== 1 || lengths.shape[0] !== B)) {
    throw new ShapeError(`${op}: lengths must be int32[${B}], one for each batch entry, got ${showType(lengths)}`);
  }
}

/** Reads masks in kernels. Without masks it writes nothing, so that kernels without masks do not change. */
export class Masks {
  readonly #t: TileWriter;
  readonly #call: LoopCall<AttentionAttrs>;
  readonly #mask: number;
  /** Statements that must run first. */
  readonly setup: Stmt[] = [];
  /** The number of keys of this sample. */
  readonly keys: Expr;

  constructor(call: LoopCall<AttentionAttrs>, t: TileWriter, base: number, { number: b, keys }: Sample) {
    const { e, k: w } = call,
      at = places(call.attrs, base);
    this.#t = t;
    this.#call = call;
    this.#mask = at.mask;
    this.keys = keys;
    if (at.lengths >= 0) {
      const count = w.scalar('index');
      this.setup.push(count.set(e.max(e.index(0), e.min(keys, w.loadIndex(call.inputs[at.lengths], b)))));
      this.keys = count.get();
    }
  }

  /** Whether some query may see no key at all. */
  get some(): boolean {
    return this.#call.attrs.masked === true || this.#call.attrs.lengths === true;
  }

  /**
   * The score of (batch entry, head, query, key) from the product q . k, and whether the key is seen, given that
   * `within` holds.
   */
  score(product: Expr, within: Expr, index: readonly Expr[]): { seen: Expr; value: Expr } {
    const t = this.#t,
      {
        e,
        k: w,
        inTypes,
        inputs,
        attrs: { scale },
      } = this.#call;
    if (this.#mask < 0) return { seen: within, value: t.mul(product, t.value(scale)) };
    const { dtype, shape } = inTypes[this.#mask],
      steps = stepsOf(shape);
    const mask = w.load(
      inputs[this.#mask],
      e.linear(
        0,
        index.map((i, d) => [steps[d], i]),
      ),
    );
    if (dtype === 'bool') return { seen: e.and(within, mask), value: t.mul(product, t.value(scale)) };
    const value = t.fma(product, t.value(scale), mask);
    return { seen: e.and(within, e.lt(t.value(-Infinity), value)), value };
  }
}

/**
 * Gradient of an additive mask: p (do . v - delta) by matrix products over all scores [B, H, T, S], summed to the
 * mask's shape. `inputs`: those of the gradient ops.
 */
export function biasGradient(
  [q, k, v, start, lse, delta, dout, mask, lengths]: readonly Tensor[],
  { causal, scale }: AttentionAttrs,
  { B, T, S, H, KV, D }: Sizes,
): Tensor {
  const heads = (x: Tensor): Tensor => emit1('transpose', [x], { order: [0, 2, 1, 3] }); // [B, heads, rows, D]
  const products = (x: Tensor, y: Tensor): Tensor =>
    emit1(
      'reshape',
      [
        emit1('matmul', [emit1('reshape', [heads(x)], { shape: [B, KV, (H / KV) * T, D] }), heads(y)], {
          transA: false,
          transB: true,
        }),
      ],
      { shape: [B, H, T, S] },
    );
  const score = emit1('add', [emit1('mul', [products(q, k), scalar(q, scale)]), mask]);
  const row = (x: Tensor): Tensor =>
    emit1('expand', [emit1('transpose', [x], { order: [0, 2, 1] }), score], { axes: [3] });
  const index = (axis: number): Tensor => emit1('iota', [score], { axis });
  let seen = emit1('less', [scalar(q, -Infinity), score]);
  const and = (condition: Tensor): void => {
    seen = emit1('logicalAnd', [seen, condition]);
  };
  if (causal) and(emit1('less', [index(3), emit1('add', [emit1('add', [index(2), start]), scalar(start, 1)])]));
  if (lengths) and(emit1('less', [index(3), emit1('expand', [lengths, score], { axes: [1, 2, 3] })]));
  const none = scalar(q, 0),
    p = emit1('where', [seen, emit1('exp', [emit1('where', [seen, emit1('sub', [score, row(lse)]), none])]), none]);
  return unbroadcast(emit1('mul', [p, emit1('sub', [products(dout, v), row(delta)])]), mask.type);
}
