// Normally distributed initial values in WebAssembly, with the same bits as base/random.ts; random words are computed
// for four pairs at a time.
import { F32, F64, Func, I32, V128 } from './binary.ts';
import { castScalar, threefry } from './words.ts';

const STEPS = 1024,
  ONE = 2 ** 24,
  TURN = (2 * Math.PI) / ONE;

/**
 * (out, tables, count, pair, key0, key1, scratch, std, bytes): writes `count` numbers times `std`, from the two of
 * counter `pair` on. `tables`: the address of the tables of base/trig.ts; `scratch`: that of 32 bytes; `bytes`: of a
 * number, 4 for float32 and 2 for bfloat16.
 */
export function emitNormals(): Func {
  const f = new Func([I32, I32, I32, I32, I32, I32, I32, F64, I32]),
    [out, tables, count, pair, key0, key1, scratch, std, bytes] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const [n, shift, mantissa, at, angle, word, end] = [I32, I32, I32, I32, I32, I32, I32].map(() => f.local(I32));
  const [r, b, q, even, odd, sin, cos] = Array.from({ length: 7 }, () => f.local(F64));
  const four = [key0, key1].map((k) => f.get(k).simd('i32x4.splat').keep(V128)),
    zero = f.v128([0, 0, 0, 0]).keep(V128);
  /** Pushes element `index` (a local) of the table that begins after `after` numbers. */
  const element = (index: number, after: number): Func =>
    f
      .get(index)
      .i32(3)
      .op('i32.shl')
      .get(tables)
      .op('i32.add')
      .memory('f64.load', 8 * after);
  /** last - x (... - x (second - x first)): `x` is a local, `first` is on the stack. */
  const series = (x: number, ...terms: readonly number[]): void => {
    for (const t of terms) {
      const rest = f.keep(F64);
      f.f64(t).get(x, rest).op('f64.mul', 'f64.sub');
    }
  };
  const loop = (index: number, last: number, step: number, body: () => void): void => {
    f.loop(index, last, step, body);
  };
  /** Stores the float32 on the stack at `out`, and moves `out` on. */
  const store = (): void => {
    const value = f.keep(F32);
    f.get(bytes)
      .i32(2)
      .op('i32.eq')
      .if(
        () => {
          f.get(out, value);
          castScalar(f, 'bfloat16', 'float32');
          f.memory('i32.store16');
        },
        () => {
          f.get(out, value).memory('f32.store');
        },
      );
    f.get(out, bytes).op('i32.add').set(out);
  };
  f.get(out, count, bytes).op('i32.mul', 'i32.add').set(end);
  const places = f.get(count).i32(7).op('i32.add').keep(I32),
    i = f.local(I32);
  loop(i, places, 8, () => {
    f.get(pair).simd('i32x4.splat').v128([0, 1, 2, 3]).simd('i32x4.add');
    const words = threefry(f, [...four, zero, f.keep(V128)], true);
    for (const [w, x] of words.entries()) f.get(scratch, x).memory('v128.store', 16 * w);
    f.get(pair).i32(4).op('i32.add').set(pair).get(scratch).set(word);
    const words4 = f.get(scratch).i32(16).op('i32.add').keep(I32);
    loop(word, words4, 4, () => {
      // log(1 - n / 2^24), from the nearest of 1025 mantissas and a series.
      f.i32(ONE).get(word).memory('i32.load').i32(8).op('i32.shr_u').tee(n).op('i32.sub').tee(mantissa);
      f.op('i32.clz')
        .i32(8)
        .op('i32.sub')
        .set(shift)
        .get(mantissa, shift)
        .op('i32.shl')
        .tee(mantissa)
        .i32(0x1000)
        .op('i32.add')
        .i32(13)
        .op('i32.shr_s')
        .set(at);
      f.get(mantissa, at)
        .i32(13)
        .op('i32.shl', 'i32.sub')
        .op('f64.convert_i32_s')
        .f64(1 / ONE)
        .op('f64.mul');
      element(at, 2 * STEPS + 1)
        .op('f64.mul')
        .set(r);
      element(at, STEPS).get(shift).op('f64.convert_i32_s').f64(Math.LN2).op('f64.mul', 'f64.sub');
      f.get(r)
        .f64(1 / 4)
        .get(r)
        .f64(5)
        .op('f64.div', 'f64.sub');
      series(r, 1 / 3, 1 / 2, 1);
      f.op('f64.mul', 'f64.add')
        .set(b)
        .f64(0)
        .get(b, n)
        .op('i32.eqz', 'select')
        .f64(-2)
        .op('f64.mul', 'f64.sqrt')
        .get(std)
        .op('f64.mul')
        .set(r);
      f.get(word).memory('i32.load', 16).i32(8).op('i32.shr_u').tee(angle).i32(14).op('i32.shr_u').set(at);
      f.get(angle)
        .i32((1 << 14) - 1)
        .op('i32.and')
        .op('f64.convert_i32_s')
        .f64(TURN)
        .op('f64.mul')
        .tee(b)
        .get(b)
        .op('f64.mul')
        .set(q);
      f.f64(1 / 24)
        .get(q)
        .f64(720)
        .op('f64.div', 'f64.sub');
      series(q, 1 / 2, 1);
      f.set(even)
        .f64(1 / 6)
        .get(q)
        .f64(120)
        .op('f64.div', 'f64.sub');
      series(q, 1);
      f.set(odd);
      element(at, 0).set(cos);
      element(at, STEPS).set(sin);
      f.get(out, end)
        .op('i32.lt_u')
        .if(() => {
          f.get(r, cos, even)
            .op('f64.mul')
            .get(sin, b)
            .op('f64.mul')
            .get(odd)
            .op('f64.mul', 'f64.sub', 'f64.mul', 'f32.demote_f64');
          store();
        });
      f.get(out, end)
        .op('i32.lt_u')
        .if(() => {
          f.get(r, sin, even)
            .op('f64.mul')
            .get(cos, b)
            .op('f64.mul')
            .get(odd)
            .op('f64.mul', 'f64.add', 'f64.mul', 'f32.demote_f64');
          store();
        });
    });
  });
  return f;
}
