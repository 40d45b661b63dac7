// The code of one matmul kernel: packs blocks of its operands for the matrix core (gemm.ts), and runs the epilogue on
// the finished sums.
import type { Expr, Var } from '../../kernel/expr.ts';
import { postorder } from '../../kernel/expr.ts';
import type { CpuMatmul, Packing } from '../../schedule/cpu-kernel.ts';
import { asSet, invariants } from '../../kernel/rewrite.ts';
import { I32, V128, F32 } from './binary.ts';
import type { Frame } from './frame.ts';
import { A_STRIDE, PANEL } from './gemm.ts';
import { narrow, type StmtWriter } from './stmts.ts';
import { Values } from './values.ts';
import { typeOf } from './words.ts';

const COPIES = 4;

/**
 * A loop over `variable`, from the local `from`, for `count` (a local) iterations. What does not change is computed
 * before the loop.
 */
function over(
  frame: Frame,
  variable: Var,
  from: number,
  count: number,
  lanes: Expr | null,
  outer: Values | undefined,
  body: (v: Values, index: number) => void,
): void {
  const { f, vars } = frame,
    index = f.local(I32),
    end = f.local(I32);
  vars.set(variable, index);
  f.get(from).tee(index).get(count).op('i32.add').set(end);
  if (lanes && narrow([lanes])) {
    f.get(count)
      .i32(4)
      .op('i32.ge_s')
      .if(() => {
        const wide = new Values(frame, variable, outer);
        wide.hoist([lanes], [], () => false);
        // Copying an element is little work: several are copied in one iteration.
        if (lanes.k === 'load')
          f.loop(index, end, 4 * COPIES, () => {
            for (let n = 0; n < COPIES; n++) body(new Values(frame, variable, wide, 4 * n).share([lanes]), index);
          });
        f.loop(index, end, 4, () => {
          body(new Values(frame, variable, wide).share([lanes]), index);
        });
      });
  }
  f.loop(index, end, 1, () => {
    body(new Values(frame, null, outer).share(lanes ? [lanes] : []), index);
  });
}

/**
 * A loop over the inner variable of an operand's packing, inside a loop over the other variable; run by run if the
 * operand has runs.
 */
function overRuns(
  frame: Frame,
  value: Expr,
  { inner, run }: Packing,
  from: number,
  count: number,
  outer: Values,
  body: (v: Values, index: number) => void,
): void {
  if (!run) {
    over(frame, inner, from, count, value, outer, body);
    return;
  }
  const { f, vars } = frame,
    u = f.local(I32),
    end = f.local(I32),
    runs = f.local(I32),
    lo = f.local(I32),
    n = f.local(I32);
  const still = (v: Values, ...changing: readonly Var[]): Values => {
    for (const x of invariants([value], asSet(...changing))) {
      v.scalar(x);
      v.bind(x, f.keep(typeOf(x.dtype)));
    }
    return v;
  };
  vars.set(run.index, u);
  f.get(from)
    .get(count)
    .op('i32.add')
    .tee(end)
    .i32(run.length - 1)
    .op('i32.add')
    .i32(run.length)
    .op('i32.div_u')
    .set(runs);
  f.get(from).i32(run.length).op('i32.div_u').set(u);
  const all = still(new Values(frame, null, outer), run.index, inner);
  f.loop(u, runs, 1, () => {
    f.get(u).i32(run.length).op('i32.mul').tee(lo).i32(run.length).op('i32.add').set(n); // the run, cut to the block
    f.get(n, end, n, end).op('i32.lt_s', 'select').set(n).get(lo, from, lo, from).op('i32.gt_s', 'select').set(lo);
    f.get(n, lo).op('i32.sub').set(n);
    over(frame, inner, lo, n, value, still(new Values(frame, null, all), inner), body);
  });
}

const PAIRS = {
  low: [0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23],
  high: [8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31],
} as const;
const HALVES = {
  low: [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23],
  high: [8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31],
} as const;

/**
 * Copies a block and transposes it: `inner` runs along the memory that is read, while four successive values of
 * `other`, from the local `base`, lie next to each other in the memory that is written. `place` pushes the address of
 * (inner, base); addresses for successive `inner` are `step` bytes apart.
 */
function transposedCopy(
  frame: Frame,
  value: Expr,
  inner: Var,
  from: number,
  count: number,
  other: Var,
  base: number,
  place: (index: number) => void,
  step: number,
): void {
  const { f, vars } = frame,
    index = f.local(I32),
    end = f.local(I32);
  vars.set(inner, index);
  const four = [0, 1, 2, 3].map((n) => {
    const at = f.get(base).i32(n).op('i32.add').keep(I32),
      lines = new Values(frame, inner);
    vars.set(other, at);
    lines.hoist([value], [], () => false);
    return { at, lines };
  });
  f.get(from).tee(index).get(count).op('i32.add').set(end);
  f.loop(index, end, 4, () => {
    const [a, b, c, d] = four.map(({ at, lines }) => {
      vars.set(other, at);
      new Values(frame, inner, lines).vector(value);
      return f.keep(V128);
    });
    const [low, high] = [PAIRS.low, PAIRS.high].map((bytes) =>
      [
        [a, b],
        [c, d],
      ].map((two) =>
        f
          .get(...two)
          .shuffle(...bytes)
          .keep(V128),
      ),
    );
    place(index);
    const address = f.keep(I32);
    for (const [l, two] of [low, low, high, high].entries())
      f.get(address, ...two)
        .shuffle(...(l % 2 === 0 ? HALVES.low : HALVES.high))
        .memory('v128.store', l * step);
  });
  f.loop(index, end, 1, () => {
    place(index);
    const address = f.keep(I32);
    for (const [n, { at }] of four.entries()) {
      vars.set(other, at);
      f.get(address);
      new Values(frame).scalar(value);
      f.memory('f32.store', 4 * n);
    }
  });
}

/** (args, scratch, to, z, i0, ni, k0, nk): writes element (i, k) of a to to[(i - i0) A_STRIDE + k - k0]. */
export function emitPackA(k: CpuMatmul, frame: Frame): void {
  const { f, vars } = frame,
    [to, z, i0, ni, k0, nk] = [2, 3, 4, 5, 6, 7],
    columns = k.packA.inner === k.i,
    value = k.packA.run?.value ?? k.a;
  vars.set(k.z, z);
  const place = (i: number, at: number): void => {
    f.get(to)
      .get(i)
      .get(i0)
      .op('i32.sub')
      .i32(A_STRIDE)
      .op('i32.mul')
      .get(at)
      .op('i32.add')
      .get(k0)
      .op('i32.sub')
      .i32(2)
      .op('i32.shl', 'i32.add');
  };
  const put = (v: Values, i: number, at: number): void => {
    if (!v.lane) {
      place(i, at);
      v.scalar(value);
      f.memory('f32.store');
      return;
    }
    v.vector(value);
    const four = f.keep(V128);
    place(i, at);
    if (!columns) {
      f.get(four).memory('v128.store', 4 * v.shift);
      return;
    }
    const address = f.keep(I32);
    for (let l = 0; l < 4; l++) f.get(address, four).memoryLane('v128.store32_lane', l, 4 * (v.shift + l) * A_STRIDE);
  };
  if (columns && value.k === 'load' && !k.packA.run) {
    const at = f.local(I32),
      rest = f.local(I32),
      end = f.get(k0).tee(at).get(nk).op('i32.add').keep(I32);
    f.loop(at, end, 4, () => {
      transposedCopy(
        frame,
        value,
        k.i,
        i0,
        ni,
        k.k,
        at,
        (i) => {
          place(i, at);
        },
        4 * A_STRIDE,
      );
    });
    f.get(end, at).op('i32.sub').set(rest);
    over(frame, k.k, at, rest, null, undefined, (outer, one) => {
      overRuns(frame, value, k.packA, i0, ni, outer, (v, i) => {
        put(v, i, one);
      });
    });
  } else if (columns)
    over(frame, k.k, k0, nk, null, undefined, (outer, at) => {
      overRuns(frame, value, k.packA, i0, ni, outer, (v, i) => {
        put(v, i, at);
      });
    });
  else
    over(frame, k.i, i0, ni, null, undefined, (outer, i) => {
      overRuns(frame, value, k.packA, k0, nk, outer, (v, at) => {
        put(v, i, at);
      });
    });
}

/**
 * (args, scratch, to, z, k0, nk, j0, nj): writes panels of 8 columns of b, [panel][k][8]; columns beyond the last are
 * 0.
 */
export function emitPackB(k: CpuMatmul, frame: Frame): void {
  const { f, vars } = frame,
    [to, z, k0, nk, j0, nj] = [2, 3, 4, 5, 6, 7];
  const rows = k.packB.inner === k.k,
    value = k.packB.run?.value ?? k.b;
  vars.set(k.z, z);
  const from = f.local(I32),
    end = f.local(I32),
    width = f.local(I32);
  f.get(j0).tee(from).get(nj).op('i32.add').set(end);
  const element = (at: number, j: number): void => {
    f.get(to)
      .get(at)
      .get(k0)
      .op('i32.sub')
      .i32(5)
      .op('i32.shl', 'i32.add')
      .get(j)
      .get(from)
      .op('i32.sub')
      .i32(2)
      .op('i32.shl', 'i32.add');
  };
  f.loop(from, end, 1, () => {
    f.get(end).get(from).op('i32.sub').tee(width).i32(PANEL).get(width).i32(PANEL).op('i32.lt_s', 'select').set(width);
    f.get(width)
      .i32(PANEL)
      .op('i32.lt_s')
      .if(() => {
        over(frame, k.k, k0, nk, null, undefined, (_, at) => {
          f.get(to).get(at).get(k0).op('i32.sub').i32(5).op('i32.shl', 'i32.add');
          const address = f.keep(I32);
          for (const half of [0, 16]) f.get(address).v128([0, 0, 0, 0]).memory('v128.store', half);
        });
      });
    const put = (v: Values, at: number, j: number): void => {
      if (!v.lane) {
        element(at, j);
        v.scalar(value);
        f.memory('f32.store');
        return;
      }
      v.vector(value);
      const four = f.keep(V128);
      element(at, j);
      if (!rows) {
        f.get(four).memory('v128.store', 4 * v.shift);
        return;
      }
      const address = f.keep(I32);
      for (let l = 0; l < 4; l++) f.get(address, four).memoryLane('v128.store32_lane', l, 4 * (v.shift + l) * PANEL);
    };
    const any = (): void => {
      if (rows)
        over(frame, k.j, from, width, null, undefined, (outer, j) => {
          overRuns(frame, value, k.packB, k0, nk, outer, (v, at) => {
            put(v, at, j);
          });
        });
      else
        over(frame, k.k, k0, nk, null, undefined, (outer, at) => {
          overRuns(frame, value, k.packB, from, width, outer, (v, j) => {
            put(v, at, j);
          });
        });
    };
    if (value.k !== 'load' || k.packB.run) any();
    else {
      f.get(width)
        .i32(PANEL)
        .op('i32.eq')
        .if(() => {
          if (rows) {
            const second = f.get(from).i32(4).op('i32.add').keep(I32);
            for (const j of [from, second])
              transposedCopy(
                frame,
                value,
                k.k,
                k0,
                nk,
                k.j,
                j,
                (at) => {
                  element(at, j);
                },
                4 * PANEL,
              );
          } else {
            vars.set(k.j, from);
            over(frame, k.k, k0, nk, null, undefined, (_, at) => {
              for (const shift of [0, 4]) put(new Values(frame, k.j, undefined, shift), at, from);
            });
          }
        }, any);
    }
    f.get(to)
      .get(nk)
      .i32(5)
      .op('i32.shl', 'i32.add')
      .set(to)
      .get(from)
      .i32(PANEL - 1)
      .op('i32.add')
      .set(from);
  });
}

/** (args, scratch, z, i0, ni, j0, nj, sums, stride in bytes): runs the epilogue on a block of finished sums. */
export function emitStore(k: CpuMatmul, frame: Frame, stmts: StmtWriter): void {
  const { f, vars } = frame,
    [z, i0, ni, j0, nj, sums, stride] = [2, 3, 4, 5, 6, 7, 8];
  vars.set(k.z, z);
  const sum = postorder(k.epilogue.element.flatMap((s) => (s.s === 'store' ? [s.value] : []))).find(
    (e) => e.k === 'sum',
  );
  over(frame, k.i, i0, ni, null, undefined, (outer) => {
    const j = f.local(I32),
      end = f.local(I32),
      row = new Values(frame, null, outer),
      wide = f.local(V128),
      single = f.local(F32);
    stmts.body(k.epilogue.row, row);
    vars.set(k.j, j);
    f.get(j0).tee(j).get(nj).op('i32.add').set(end);
    stmts.loop(k.j, j, end, true, k.epilogue.element, row, (v) => {
      if (!sum) return;
      f.get(sums).get(j).get(j0).op('i32.sub').i32(2).op('i32.shl', 'i32.add');
      if (v.lane) f.memory('v128.load').set(wide);
      else f.memory('f32.load').set(single);
      v.bind(sum, v.lane ? wide : single, v.lane !== null);
    });
    f.get(sums).get(stride).op('i32.add').set(sums);
  });
}
