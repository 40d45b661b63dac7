// A matmul as C: describes its operands, their packing and the epilogue to the matrix core (dm_gemm in
// device/native/runtime.h). An operand with constant strides in memory is passed as it is; any other is computed while
// it is packed.
import { postorder, type Expr, type Var } from '../../kernel/expr.ts';
import type { Extent } from '../../kernel/kernel.ts';
import type { CpuMatmul, Packing } from '../../schedule/cpu-kernel.ts';
import { invariants, strideOf } from '../../kernel/rewrite.ts';
import { ExprWriter } from './expr.ts';
import { declareLocals, emitBody } from './stmt.ts';

export function emitMatmul(name: string, k: CpuMatmul, params: readonly string[]): string {
  const a = operand(k.a, k.i, k.k),
    b = operand(k.b, k.k, k.j),
    touched = touchedBy(k);
  const bind = params.map((p) => `  ${p}`);
  const z = k.z.name;
  const parts = [
    ...(a ? base(`${name}_a`, a.base, z, bind) : packA(`${name}_a`, k, bind)),
    ...(b ? base(`${name}_b`, b.base, z, bind) : packB(`${name}_b`, k, bind)),
    ...store(`${name}_c`, k, bind),
    ...touched.flatMap((t, n) => out(`${name}_${n === 0 ? 'o' : 'p'}`, k, t, bind)),
  ];
  const sizes = (of: 'm' | 'k', e: Extent): string =>
    typeof e === 'number'
      ? `.${of} = ${e}`
      : 'count' in e
        ? `.${of} = ${e.times} * (int64_t)((const int32_t *)c->buf[${e.count}])[${e.at}]`
        : `.${of}_off = (const int32_t *)c->buf[${e.offsets}]`;
  const fields = [
    `.groups = ${k.groups}`,
    `.n = ${k.n}`,
    sizes('m', k.m),
    sizes('k', k.depth),
    ...(a
      ? [`.a_base = ${name}_a`, `.a_si = ${a.s0}`, `.a_sk = ${a.s1}`]
      : [`.a_pack = ${name}_a`, `.a_pack_cols = ${k.packA.inner === k.i ? 1 : 0}`]),
    ...(b ? [`.b_base = ${name}_b`, `.b_sk = ${b.s0}`, `.b_sj = ${b.s1}`] : [`.b_pack = ${name}_b`]),
    `.store = ${name}_c`,
    ...touched.map((t, n) => (n === 0 ? `.out = ${name}_o, .out_si = ${4 * t.si}` : `.also = ${name}_p`)),
    ...(touched.length > 0 && isPlain(k) ? ['.plain = 1'] : []),
  ];
  return [
    ...parts,
    `static inline dm_gemm ${name}_d(const dm_ctx *c) { (void)c; return (dm_gemm){ ${fields.join(', ')} }; }`,
    `int64_t ${name}_tasks(const dm_ctx *c) { const dm_gemm d = ${name}_d(c); return c->core->gemm_tasks(c, &d); }`,
    `void ${name}(const dm_ctx *c, int64_t task) { const dm_gemm d = ${name}_d(c); c->core->gemm_task(c, &d, task); }`,
    '',
  ].join('\n');
}

interface Direct {
  readonly base: Expr & { k: 'load' };
  readonly s0: number;
  readonly s1: number;
}

/**
 * A load whose index is (a function of z) + s0 * first + s1 * second, with one stride of 1: such an operand needs no
 * packing code of the kernel's own. Null for any other.
 */
function operand(e: Expr, first: Var, second: Var): Direct | null {
  if (e.k !== 'load' || e.dtype !== 'float32') return null;
  const s0 = strideOf(e.index, first),
    s1 = strideOf(e.index, second);
  if (s0 === null || s1 === null || (s0 !== 1 && s1 !== 1)) return null;
  return { base: e, s0, s1 };
}

function base(fn: string, load: Expr & { k: 'load' }, z: string, bind: readonly string[]): string[] {
  // With all other variables 0, the index is that of the first element of the group.
  const w = new ExprWriter(),
    index = w.value(load.index);
  const vars = [...new Set(index.match(/\b[ijk]\d+\b/g) ?? [])].map((v) => `  const int64_t ${v} = 0;`);
  return [
    `static const float *${fn}(const dm_ctx *c, int64_t ${z}) {`,
    ...bind,
    `  (void)${z};`,
    ...vars,
    ...w.lines.map((l) => `  ${l}`),
    `  return b${load.buffer} + ${index};`,
    '}',
  ];
}

/** The first value of a packing loop's variable, and the number of iterations. */
interface Range {
  readonly variable: Var;
  readonly from: string;
  readonly count: string;
}

/** Runs of up to this many elements are copied by a loop of fixed length. */
const SHORT = 64;

/**
 * Two nested loops over a block of the operand; the inner one is vectorised, and goes run by run if the operand has
 * runs. What does not depend on a loop's variable is computed once, before the loop.
 */
function packLoops(whole: Expr, { inner, run }: Packing, outer: Range, own: Range, target: string): string[] {
  const value = run?.value ?? whole,
    names = new Map<Expr, string>();
  const before = (...vars: readonly Var[]): string[] => {
    const w = new ExprWriter(names);
    for (const v of invariants([value], new Set(vars))) if (!names.has(v)) names.set(v, w.value(v));
    return w.lines;
  };
  const copy = (from: string, to: string, indent: string): string[] => {
    const w = new ExprWriter(names),
      v = w.value(value);
    return [
      'DM_VECTOR',
      `for (int64_t q = ${from}; q < ${to}; q++) {`,
      `  const int64_t ${inner.name} = ${own.from} + q; (void)${inner.name};`,
      ...w.lines.map((l) => `  ${l}`),
      `  dst[${target}] = ${v};`,
      '}',
    ].map((l) => indent + l);
  };
  const head = [
    `  for (int64_t o = 0; o < ${outer.count}; o++) {`,
    `    DM_OUTER const int64_t ` + `${outer.variable.name} = ${outer.from} + o; (void)${outer.variable.name};`,
    ...before(...(run ? [run.index, inner] : [inner])).map((l) => `    ${l}`),
  ];
  if (!run) return [...head, ...copy('0', own.count, '    '), '  }'];
  const at = run.index.name,
    first = `${at} * ${run.length} - ${own.from}`; // of the run, in the block
  return [
    ...head,
    `    for (int64_t ${at} = ${own.from} / ${run.length}; ${first} < ${own.count}; ${at}++) {`,
    '      DM_OUTER',
    ...before(inner).map((l) => `      ${l}`),
    `      const int64_t first = ${first}, last = first + ${run.length}, lo = first < 0 ? 0 : first, hi = last < ` +
      `${own.count} ? last : ${own.count};`,
    ...(run.length > SHORT
      ? copy('lo', 'hi', '      ')
      : [
          `      if (hi - lo == ${run.length}) {`,
          ...copy('first', `first + ${run.length}`, '        '),
          '      } else {',
          ...copy('lo', 'hi', '        '),
          '      }',
        ]),
    '    }',
    '  }',
  ];
}

function packA(fn: string, k: CpuMatmul, bind: readonly string[]): string[] {
  const rows: Range = { variable: k.i, from: 'i0', count: 'ni' },
    depth: Range = { variable: k.k, from: 'k0', count: 'nk' };
  const loops =
    k.packA.inner === k.i
      ? packLoops(k.a, k.packA, depth, rows, 'o * ld + q')
      : packLoops(k.a, k.packA, rows, depth, 'o * ld + q');
  return [
    `static void ${fn}(const dm_ctx *c, int64_t ${k.z.name}, int64_t i0, int64_t ni, int64_t k0, int64_t nk, ` +
      `float *dst, int64_t ld) {`,
    ...bind,
    `  (void)${k.z.name};`,
    ...loops,
    '}',
  ];
}

function packB(fn: string, k: CpuMatmul, bind: readonly string[]): string[] {
  const columns: Range = { variable: k.j, from: 'j0', count: 'nj' },
    depth: Range = { variable: k.k, from: 'k0', count: 'nk' };
  const loops =
    k.packB.inner === k.k
      ? packLoops(k.b, k.packB, columns, depth, 'q * ld + o')
      : packLoops(k.b, k.packB, depth, columns, 'o * ld + q');
  return [
    `static void ${fn}(const dm_ctx *c, int64_t ${k.z.name}, int64_t k0, int64_t nk, int64_t j0, int64_t nj, ` +
      `float *dst, int64_t ld) {`,
    ...bind,
    `  (void)${k.z.name};`,
    ...loops,
    '}',
  ];
}

interface Touched {
  readonly buffer: number;
  readonly index: Expr;
  readonly si: number;
}

/**
 * Up to two buffers whose elements the epilogue uses row by row, with the same distance between rows: the core
 * prefetches them. Buffers that are read and written come first, then those that are only written.
 */
function touchedBy({ epilogue, i, j, buffers }: CpuMatmul): Touched[] {
  const found: Touched[] = [];
  for (const s of epilogue.element) {
    if (s.s !== 'store') continue;
    const si = strideOf(s.index, i),
      read = postorder([s.value]).find((e) => e.k === 'load' && e.index === s.index);
    if (si === null || strideOf(s.index, j) !== 1 || (found.length > 0 && found[0].si !== si)) continue;
    for (const buffer of read?.k === 'load' ? [read.buffer, s.buffer] : [s.buffer])
      if (buffers[buffer].dtype === 'float32') found.push({ buffer, index: s.index, si });
  }
  return found.slice(0, 2);
}

/** Whether the epilogue only stores the sums. */
function isPlain({ epilogue, buffers }: CpuMatmul): boolean {
  const [only, ...others] = epilogue.element;
  return (
    others.length === 0 && only.s === 'store' && only.value.k === 'sum' && buffers[only.buffer].dtype === 'float32'
  );
}

function out(fn: string, k: CpuMatmul, { buffer, index }: Touched, bind: readonly string[]): string[] {
  const names = new Map<Expr, string>(),
    row = emitBody(k.epilogue.row, names),
    w = new ExprWriter(names),
    at = w.value(index);
  return [
    `static const char *${fn}(const dm_ctx *c, int64_t ${k.z.name}) {`,
    ...bind,
    `  const int64_t ${k.i.name} ` + `= 0, ${k.j.name} = 0; (void)${k.z.name}, (void)${k.i.name}, (void)${k.j.name};`,
    ...declareLocals(k.locals).map((l) => `  ${l}`),
    ...row.map((l) => `  ${l}`),
    ...w.lines.map((l) => `  ${l}`),
    `  return (const char *)(b${buffer} + ${at});`,
    '}',
  ];
}

function store(fn: string, k: CpuMatmul, bind: readonly string[]): string[] {
  const names = new Map<Expr, string>();
  return [
    `static void ${fn}(const dm_ctx *c, int64_t ${k.z.name}, int64_t i0, int64_t ni, int64_t j0, int64_t nj, ` +
      `const float *acc, int64_t ld) {`,
    ...bind,
    `  (void)${k.z.name};`,
    '  for (int64_t r = 0; r < ni; r++) {',
    `    DM_OUTER const int64_t ${k.i.name} = i0 + r; (void)${k.i.name};`,
    ...declareLocals(k.locals).map((l) => `    ${l}`),
    ...emitBody(k.epilogue.row, names).map((l) => `    ${l}`),
    '    DM_VECTOR',
    '    for (int64_t q = 0; q < nj; q++) {',
    `      const int64_t ${k.j.name} = j0 + q; (void)${k.j.name};`,
    '      const float sum = acc[r * ld + q]; (void)sum;',
    ...emitBody(k.epilogue.element, names).map((l) => `      ${l}`),
    '    }',
    '  }',
    '}',
  ];
}
