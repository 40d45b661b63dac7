// The matrix core for WebAssembly: sums of products of packed blocks. Every sum is one chain of multiply-adds, k
// ascending: in registers within a block of the depth, in memory between blocks. The bits are therefore those of any
// other tiling. In parts (base/parts.ts), finished sums wait beside the sums that are computed, and are joined there.
// Tiles have 6 rows of 8 floats, which fill the 16 vector registers of x86-64: 12 sums, two vectors of B and one of A.
import { F32, Func, I32, ModuleWriter, V128 } from './binary.ts';
import { emitNormals } from './normals.ts';

/**
 * Floats from one row to the next in a packed block of A: more than the depth of a block, and not a multiple of a page.
 */
export const A_STRIDE = 272;
/** The largest depth of a block. */
export const DEPTH = 256;
export const PANEL = 8;
const TILE = 6,
  UNROLL = 4;

/**
 * A module with three functions. `block(a, b, c, rows, panels, nk, stride, add, joins, apart, to)`: sums over nk steps
 * of the depth of a [rows][A_STRIDE] times b [panels][nk][8], for rows that are `stride` bytes apart. If `add` is not
 * 0, sums start from those in c. Those at c + apart, c + 2 apart, .., `joins` in number, are added at the end. The
 * result goes to c + to. `madd(a, b, c)`: one multiply-add, to test whether it is rounded once. `normals`: see
 * normals.ts.
 */
export function emitCore(
  fused: boolean,
  memory: { readonly shared: boolean; readonly pages: number },
): Uint8Array<ArrayBuffer> {
  const module = new ModuleWriter();
  const tiles = Array.from({ length: TILE }, (_, r) => module.add(tile(r + 1, fused), null));
  const [a, b, c, rows, ...more] = Array.from({ length: 11 }, (_, i) => i),
    block = new Func([a, b, c, rows, ...more].map(() => I32 as typeof I32)),
    stride = more[2];
  const at = block.local(I32);
  const call = (height: number): void => {
    block.get(a, b, c, ...more).call(tiles[height - 1]);
  };
  block.loop(at, rows, TILE, () => {
    call(TILE);
    block
      .get(a)
      .i32(TILE * A_STRIDE * 4)
      .op('i32.add')
      .set(a)
      .get(c)
      .get(stride)
      .i32(TILE)
      .op('i32.mul', 'i32.add')
      .set(c);
  });
  block.get(rows, at).op('i32.sub').set(rows);
  for (let height = 1; height < TILE; height++)
    block
      .get(rows)
      .i32(height)
      .op('i32.eq')
      .if(() => {
        call(height);
      });
  module.add(block, 'block');
  module.add(emitNormals(), 'normals');

  const madd = new Func([F32, F32, F32], [F32]);
  for (const x of [0, 1, 2]) madd.get(x).simd('f32x4.splat');
  madd.simd('f32x4.relaxed_madd').lane('f32x4.extract_lane', 0);
  if (fused) module.add(madd, 'madd');
  return module.bytes(memory);
}

/** A function (a, b, c, panels, nk, stride, add, joins, apart, to) for `height` rows of c. */
function tile(height: number, fused: boolean): Func {
  const f = new Func(Array.from({ length: 10 }, () => I32 as typeof I32)),
    [a, b, c, panels, nk, stride, add, joins, apart, to] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
  const sums = Array.from({ length: height }, () => [f.local(V128), f.local(V128)]);
  const [panel, p, k, row, join, from] = [I32, I32, I32, I32, I32, I32].map(() => f.local(I32)),
    [b0, b1, x] = [V128, V128, V128].map(() => f.local(V128));
  const step = (u: number): void => {
    f.get(b)
      .memory('v128.load', 32 * u)
      .set(b0)
      .get(b)
      .memory('v128.load', 32 * u + 16)
      .set(b1);
    for (const [r, [s0, s1]] of sums.entries()) {
      f.get(p)
        .memory('v128.load32_splat', 4 * (r * A_STRIDE + u))
        .set(x);
      for (const [s, v] of [
        [s0, b0],
        [s1, b1],
      ]) {
        if (fused) f.get(x, v, s).simd('f32x4.relaxed_madd').set(s);
        else f.get(s, x, v).simd('f32x4.mul', 'f32x4.add').set(s);
      }
    }
  };
  const onward = (steps: number): void => {
    f.get(b)
      .i32(32 * steps)
      .op('i32.add')
      .set(b)
      .get(p)
      .i32(4 * steps)
      .op('i32.add')
      .set(p);
  };
  f.loop(panel, panels, 1, () => {
    for (const [s0, s1] of sums) f.v128([0, 0, 0, 0]).tee(s0).set(s1);
    f.get(add).if(() => {
      f.get(c).set(row);
      for (const [s0, s1] of sums)
        f.get(row)
          .memory('v128.load')
          .set(s0)
          .get(row)
          .memory('v128.load', 16)
          .set(s1)
          .get(row, stride)
          .op('i32.add')
          .set(row);
    });
    f.get(a).set(p).i32(0).set(k);
    f.loop(k, nk, UNROLL, () => {
      for (let u = 0; u < UNROLL; u++) step(u);
      onward(UNROLL);
    });
    f.loop(k, nk, 1, () => {
      step(0);
      onward(1);
    });
    f.get(c).set(from).i32(0).set(join);
    f.loop(join, joins, 1, () => {
      f.get(from, apart).op('i32.add').tee(from).set(row);
      for (const [s0, s1] of sums) {
        f.get(s0, row).memory('v128.load').simd('f32x4.add').set(s0);
        f.get(s1, row).memory('v128.load', 16).simd('f32x4.add').set(s1);
        f.get(row, stride).op('i32.add').set(row);
      }
    });
    f.get(c, to).op('i32.add').set(row);
    for (const [s0, s1] of sums)
      f.get(row, s0).memory('v128.store').get(row, s1).memory('v128.store', 16).get(row, stride).op('i32.add').set(row);
    f.get(c)
      .i32(4 * PANEL)
      .op('i32.add')
      .set(c);
  });
  return f;
}
