// The elementary functions of float32 on rows of numbers: as C text in a shared object, and as WebAssembly.
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';
import { C } from '../../src/emit/c/dialect.ts';
import { defineFunctions } from '../../src/emit/clike/functions.ts';
import { emitModule, IMPORTS } from '../../src/emit/wasm/kernel.ts';
import { Exprs } from '../../src/kernel/expr.ts';
import { ELEMENTARY, type Elementary } from '../../src/kernel/functions.ts';
import type { CpuLoops } from '../../src/schedule/cpu-kernel.ts';

/** y[i] = f(x[i]) for the bits of float32 numbers. */
export type Rows = (f: Elementary, x: Uint32Array) => Uint32Array;

const native = join(import.meta.dirname, '..', '..', 'src', 'device', 'native');
export const CC = process.env['CC'] ?? 'cc';
export const FLAGS = [
  '-O3',
  '-march=native',
  '-ffp-contract=off',
  '-fno-math-errno',
  '-fno-trapping-math',
  '-std=gnu11',
  '-fwrapv',
];

/** The text that the native device compiles with its kernels. */
export const functionsText = (): string =>
  [`#include "${join(native, 'math.h')}"`, ...defineFunctions(C), ''].join('\n');

/** Compiles C text. `name`: how it calls a function. */
export function nativeRows(folder: string, file: string, text: string, name: (f: Elementary) => string): Rows {
  const source = join(folder, `${file}.c`),
    object = join(folder, `${file}.so`);
  const rows = ELEMENTARY.map(
    (f) =>
      `void row_${f}(float *restrict y, const float *restrict x, int n) { for (int i = 0; i < n; i++) y[i] = ` +
      `${name(f)}(x[i]); }\n`,
  );
  writeFileSync(source, `${text}\n${rows.join('')}`);
  execFileSync(CC, [...FLAGS, '-fPIC', '-shared', source, '-o', object, '-lm'], { stdio: 'inherit' });
  const library = koffi.load(object);
  const call = new Map(
    ELEMENTARY.map((f) => [f, library.func(`void row_${f}(_Out_ uint32_t *y, uint32_t *x, int n)`)] as const),
  );
  return (f, x) => {
    const y = new Uint32Array(x.length);
    call.get(f)?.(y, x, x.length);
    return y;
  };
}

/** A kernel y[i] = f(x[i]), i < n. */
function kernelOf(f: Elementary): CpuLoops {
  const e = new Exprs(),
    extent = e.int(0),
    index = e.loop(extent);
  return {
    form: 'loops',
    buffers: [
      { dtype: 'float32', access: 'read' },
      { dtype: 'float32', access: 'write' },
    ],
    locals: [],
    ints: 1,
    grid: { index, extent, grain: 1, vector: true },
    body: [{ s: 'store', buffer: 1, index, value: e.op(f, [e.load(0, index, 'float32')], 'float32') }],
  };
}

/** Runs kernels of WebAssembly on rows of up to `length` numbers. */
export function wasmRows(length: number): Rows {
  const pages = Math.ceil((2 * 4 * length + 65536) / 65536);
  const { bytes } = emitModule(ELEMENTARY.map(kernelOf), { fused: true, memory: { shared: false, pages }, scratch: 0 });
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  const unused = Object.fromEntries(IMPORTS.map(({ name }) => [name, () => NaN]));
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory, ...unused } }),
    words = new Uint32Array(memory.buffer);
  const args = 16,
    from = 65536 / 4,
    to = from + length;
  words.set([4 * from, 4 * to, length], args / 4);
  return (f, x) => {
    words.set(x, from);
    (exports[`run${ELEMENTARY.indexOf(f)}`] as (...numbers: number[]) => void)(args, 0, 0, x.length);
    return words.slice(to, to + x.length);
  };
}

/** Where two rows differ: pairs of NaN do not. Also counts pairs of NaN with other bits. */
export function differences(a: Uint32Array, b: Uint32Array): { readonly at: readonly number[]; readonly nans: number } {
  const at: number[] = [];
  let nans = 0;
  if (Buffer.from(a.buffer).equals(Buffer.from(b.buffer))) return { at, nans };
  for (let i = 0; i < a.length; i++) {
    if (a[i] === b[i]) continue;
    if (isNaNBits(a[i]) && isNaNBits(b[i])) nans++;
    else at.push(i);
  }
  return { at, nans };
}

export const isNaNBits = (bits: number): boolean => (bits & 0x7fffffff) > 0x7f800000;
