// Kernels as WebAssembly modules. Kernel number N with loops exports `extentN(args)`, the number of iterations of its
// grid, and `runN(args, scratch, first, last)`, which runs some of them. A matmul exports how its operands are packed
// and how its sums are stored; the matrix core (gemm.ts) runs in between. `args` is the address of a list of int32:
// addresses of buffers, then run-time integers.
import { bytesPer } from '../../base/dtype.ts';
import type { KernelParts } from '../../base/parts.ts';
import { VerifyError } from '../../base/errors.ts';
import { postorder, type Expr } from '../../kernel/expr.ts';
import { ELEMENTARY } from '../../kernel/functions.ts';
import type { Extent, Local } from '../../kernel/kernel.ts';
import type { CpuKernel, CpuLoops, CpuMatmul, CpuStmt } from '../../schedule/cpu-kernel.ts';
import { F64, Func, I32, ModuleWriter, type Import } from './binary.ts';
import type { Frame } from './frame.ts';
import { emitPackA, emitPackB, emitStore } from './matmul.ts';
import { layout, noCore, StmtWriter } from './stmts.ts';
import { Values } from './values.ts';
import { typeOf } from './words.ts';

/**
 * What the device needs to know of a kernel, beside its functions. Kernels are numbered by their place in the module.
 */
export type KernelShape =
  | { readonly form: 'loops'; readonly grain: number }
  | {
      readonly form: 'matmul';
      readonly groups: number;
      readonly n: number;
      readonly m: Extent;
      readonly depth: Extent;
      readonly parts: KernelParts | null;
      readonly buffers: number;
    };

export interface EmitOptions {
  /**
   * Whether relaxed multiply-add rounds once on this machine; otherwise multiplication and addition are rounded
   * separately.
   */
  readonly fused: boolean;
  readonly memory: { readonly shared: boolean; readonly pages: number };
  /** Bytes of scratch memory for the local arrays of a kernel. */
  readonly scratch: number;
}

/** Functions on float64 that the device provides. */
export const IMPORTS: readonly Import[] = [
  ...ELEMENTARY.map((name): Import => ({ name, params: [F64], results: [F64] })),
  { name: 'pow', params: [F64, F64], results: [F64] },
];

export function emitModule(
  kernels: readonly CpuKernel[],
  options: EmitOptions,
): { readonly bytes: Uint8Array<ArrayBuffer>; readonly shapes: readonly KernelShape[] } {
  const module = new ModuleWriter(IMPORTS);
  const shapes = kernels.map((k, i): KernelShape => {
    if (k.form === 'matmul') {
      emitMatmul(module, k, i, options);
      return {
        form: 'matmul',
        groups: k.groups,
        n: k.n,
        m: k.m,
        depth: k.depth,
        parts: k.parts,
        buffers: k.buffers.length,
      };
    }
    emitLoops(module, k, i, options);
    return { form: 'loops', grain: k.grid.grain };
  });
  return { bytes: module.bytes(options.memory), shapes };
}

/**
 * Begins a function whose first parameters are `args` and, if it has one, `scratch`: loads the kernel's parameters into
 * locals.
 */
function begin(
  module: ModuleWriter,
  k: CpuKernel,
  f: Func,
  options: EmitOptions,
  used: readonly Expr[],
): { frame: Frame; stmts: StmtWriter } {
  const { offsets, end } = layout(k.locals);
  const room = end + LANES_BYTES * widestReduce(k.form === 'loops' ? k.body : k.epilogue.row);
  if (room > options.scratch)
    throw new VerifyError(
      'emit',
      `a kernel needs ${room} bytes of scratch memory, the wasm device has ${options.scratch}`,
    );
  const ints = new Set(used.flatMap((e) => (e.k === 'int' ? [e.slot] : [])));
  const parameter = (n: number): number => {
    f.get(0).memory('i32.load', 4 * n);
    return f.keep(I32);
  };
  const addresses = k.buffers.map((_, i) => parameter(i));
  const slots = Array.from({ length: k.ints }, (_, i) => (ints.has(i) ? parameter(k.buffers.length + i) : -1));
  const places = k.locals.map((l: Local, i) => (l.length > 0 ? offsets[i] : f.local(typeOf(l.dtype))));
  const frame: Frame = {
    f,
    fused: options.fused,
    buffers: k.buffers,
    addresses,
    ints: slots,
    locals: k.locals,
    places,
    scratch: 1,
    vars: new Map(),
    imported: (name) => module.imported(name),
  };
  return { frame, stmts: new StmtWriter(frame, end) };
}

const LANES_BYTES = 16 * bytesPer('float64');

/** The largest number of reductions that share a pass. */
function widestReduce(body: readonly CpuStmt[]): number {
  return Math.max(
    0,
    ...body.map((s) =>
      s.s === 'reduce' ? s.targets.length : s.s === 'for' || s.s === 'if' ? widestReduce(s.body) : 0,
    ),
  );
}

/** All expressions of statements. */
function expressions(body: readonly CpuStmt[]): Expr[] {
  return body.flatMap((s): Expr[] => {
    switch (s.s) {
      case 'for':
        return [s.extent, ...expressions(s.body)];
      case 'if':
        return [s.condition, ...expressions(s.body)];
      case 'set':
        return s.index ? [s.value, s.index] : [s.value];
      case 'store':
        return [s.value, s.index];
      case 'reduce':
        return [s.extent, ...s.targets.map((t) => t.value), ...(s.blocks?.values ?? [])];
      case 'fill':
        return [];
      case 'prefetch':
      case 'product':
      case 'transpose':
        throw noCore(s.s);
    }
  });
}

function emitLoops(module: ModuleWriter, k: CpuLoops, number: number, options: EmitOptions): void {
  const count = new Func([I32], [I32]);
  const head = begin(module, k, count, options, postorder([k.grid.extent]));
  new Values(head.frame).scalar(k.grid.extent);
  module.add(count, `extent${number}`);

  const run = new Func([I32, I32, I32, I32]);
  const { frame, stmts } = begin(module, k, run, options, postorder(expressions(k.body)));
  frame.vars.set(k.grid.index, 2);
  stmts.loop(k.grid.index, 2, 3, k.grid.vector, k.body, new Values(frame));
  module.add(run, `run${number}`);
}

function emitMatmul(module: ModuleWriter, k: CpuMatmul, number: number, options: EmitOptions): void {
  const part = (
    name: string,
    params: number,
    used: readonly Expr[],
    write: (frame: Frame, stmts: StmtWriter) => void,
  ): void => {
    const f = new Func(Array.from({ length: params }, () => I32 as typeof I32));
    const { frame, stmts } = begin(module, k, f, options, postorder(used));
    write(frame, stmts);
    module.add(f, `${name}${number}`);
  };
  part('packA', 8, [k.a], (frame) => {
    emitPackA(k, frame);
  });
  part('packB', 8, [k.b], (frame) => {
    emitPackB(k, frame);
  });
  part('store', 9, expressions([...k.epilogue.row, ...k.epilogue.element]), (frame, stmts) => {
    emitStore(k, frame, stmts);
  });
}
