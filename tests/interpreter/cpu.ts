// Kernels that are scheduled for a CPU, as JavaScript text. Tasks run one after the other; to the tracker each is a
// block. Iterations that may run at the same time (vector) run from the last to the first: a kernel that needs another
// order gives other results.
import { leastOf } from '../../src/base/dtype.ts';
import type { Expr, Var } from '../../src/kernel/expr.ts';
import type { Extent, Local, Matrix } from '../../src/kernel/kernel.ts';
import type { CpuKernel, CpuLoops, CpuMatmul, CpuReduce, CpuStmt, Packing } from '../../src/schedule/cpu-kernel.ts';
import { ExprText, literal, type TextOptions } from './expressions.ts';
import { bodyText, parametersText, sumText, type Names } from './statements.ts';

/** The body of a function of b, B and n (statements.ts), k and m (expressions.ts). */
export const cpuText = (kernel: CpuKernel): string =>
  [...parametersText(kernel), ...(kernel.form === 'loops' ? loopsText(kernel) : matmulText(kernel))].join('\n');

const localsText = (locals: readonly Local[]): string[] =>
  locals.map((l, i) => (l.length > 0 ? `const t${i} = m.arrayOf('${l.dtype}', ${l.length});` : `let t${i};`));

function loopsText(k: CpuLoops): string[] {
  const { index, extent, grain, vector } = k.grid,
    w = new ExprText(k),
    all = w.value(extent);
  return [
    ...w.lines,
    `const all = ${all};`,
    `for (let first = 0; first < all; first += ${grain}) {`,
    'k.beginBlock();',
    `const last = Math.min(all, first + ${grain});`,
    `for (let at = first; at < last; at++) {`,
    `const ${index.name} = ${vector ? 'first + last - 1 - at' : 'at'};`,
    ...localsText(k.locals),
    ...stmtsText(k, k.body),
    '}',
    '}',
  ];
}

const stmtsText = (o: TextOptions, body: readonly CpuStmt[], names?: Names): string[] =>
  bodyText<CpuStmt>(o, body, (s, n) => stmtText(o, s, n), names);

function stmtText(o: TextOptions, s: CpuStmt, names: Names): string[] {
  const w = new ExprText(o, names);
  switch (s.s) {
    case 'for': {
      const end = w.value(s.extent),
        loop = s.vector
          ? `for (let ${s.index.name} = end - 1; ${s.index.name} >= 0; ${s.index.name}--) {`
          : `for (let ${s.index.name} = 0; ${s.index.name} < end; ${s.index.name}++) {`;
      return ['{', ...w.lines, `const end = ${end};`, loop, ...stmtsText(o, s.body, names), '}', '}'];
    }
    case 'fill':
      return [`t${s.local}.fill(${s.value});`];
    case 'reduce':
      return reduceText(o, s, names);
    case 'product': {
      const [rows, depth] = [w.value(s.rows), w.value(s.depth)],
        [to, a, b] = [s.to, s.a, s.b].map((x) => matrixText(o, x, w));
      return [
        '{',
        ...w.lines,
        `for (let r = 0; r < ${rows}; r++) for (let l = 0; l < ${s.width}; l++) {`,
        `let sum = ${to('read', 'r', 'l')};`,
        `for (let d = 0; d < ${depth}; d++) sum = m.fma32(${a('read', 'r', 'd')}, ${b('read', 'd', 'l')}, sum);`,
        `${to('write', 'r', 'l')} = sum;`,
        '}',
        '}',
      ];
    }
    case 'transpose': {
      const rows = w.value(s.rows),
        from = matrixText(o, s.from, w);
      return [
        '{',
        ...w.lines,
        `t${s.to}.fill(0);`,
        `for (let r = 0; r < ${rows}; r++) for (let c = 0; c < ${s.columns}; c++)`,
        `t${s.to}[m.within(16 * c + r, ${o.locals[s.to].length})] = ${from('read', 'r', 'c')};`,
        '}',
      ];
    }
    case 'prefetch':
      return [];
    default:
      throw new Error(`a statement ${s.s}`);
  }
}

function matrixText(
  o: TextOptions,
  { in: kind, of, at, rows, columns }: Matrix,
  w: ExprText,
): (access: 'read' | 'write', row: string, column: string) => string {
  const start = w.value(at);
  return (access, row, column) => {
    const index = `${start} + ${rows} * ${row} + ${columns} * ${column}`;
    return kind === 'local'
      ? `t${of}[m.within(${index}, ${o.locals[of].length})]`
      : `b${of}[k.${access}(B${of}, ${index})]`;
  };
}

/** 16 partial results in chunks of 4096, joined 8, 4, 2, 1. */
function reduceText(o: TextOptions, s: CpuReduce, names: Names): string[] {
  const head = new ExprText(o, names),
    end = head.value(s.extent);
  const start = s.targets.map(({ op, value: { dtype } }) => literal(op === 'sum' ? 0 : leastOf(dtype), dtype)),
    join = (i: number, into: string, x: string): string =>
      s.targets[i].op === 'sum' ? sumText(s.targets[i].value.dtype, into, x) : `m.larger(${x}, ${into})`;
  const step = (values: readonly Expr[]): string[] => {
    const w = new ExprText(o, names),
      added = values.map((v, i) => `lane${i}[l] = ${join(i, `lane${i}[l]`, w.value(v))};`);
    return [...w.lines, ...added];
  };
  const single = step(s.targets.map((t) => t.value));
  const each = (line: (i: number) => string): string[] => s.targets.map((_, i) => line(i));
  return [
    '{',
    ...head.lines,
    `const end = ${end};`,
    ...each((i) => `t${s.targets[i].local} = ${start[i]};`),
    'for (let from = 0; from < end; from += 4096) {',
    'const size = Math.min(4096, end - from);',
    ...each((i) => `const lane${i} = new Array(16).fill(${start[i]});`),
    'for (let at = 0; at < size; at++) {',
    `const l = at % 16, ${s.index.name} = from + at;`,
    ...(s.blocks
      ? [
          `if (at - l + 16 <= size) {`,
          `const ${s.blocks.index.name} = (from + at - l) / 16;`,
          ...step(s.blocks.values),
          '} else {',
          ...single,
          '}',
        ]
      : single),
    '}',
    'for (let w = 8; w >= 1; w /= 2) for (let l = 0; l < w; l++) {',
    ...each((i) => `lane${i}[l] = ${join(i, `lane${i}[l]`, `lane${i}[l + w]`)};`),
    '}',
    ...each((i) => `t${s.targets[i].local} = ${join(i, `t${s.targets[i].local}`, `lane${i}[0]`)};`),
    '}',
    '}',
  ];
}

/** Each row of the product is a block to the tracker. Operands that are packed are computed as they are packed. */
function matmulText(k: CpuMatmul): string[] {
  const z = k.z.name,
    size = (e: Extent): string =>
      typeof e === 'number'
        ? `${e}`
        : 'count' in e
          ? `${e.times} * b${e.count}[k.read(B${e.count}, ${e.at})]`
          : `b${e.offsets}[k.read(B${e.offsets}, ${z} + 1)] - b${e.offsets}[k.read(B${e.offsets}, ${z})]`;
  const packed = (e: Expr, { inner, run }: Packing): { readonly value: Expr; readonly lines: string[] } =>
    run
      ? { value: run.value, lines: [`const ${run.index.name} = Math.floor(${inner.name} / ${run.length});`] }
      : { value: e, lines: [] };
  const a = packed(k.a, k.packA),
    b = packed(k.b, k.packB),
    w = new ExprText(k),
    [left, right] = [w.value(a.value), w.value(b.value)];
  const loop = (v: Var, below: string): string => `for (let ${v.name} = 0; ${v.name} < ${below}; ${v.name}++) {`;
  return [
    loop(k.z, `${k.groups}`),
    `const rows = ${size(k.m)}, depth = ${size(k.depth)};`,
    loop(k.i, 'rows'),
    'k.beginBlock();',
    ...localsText(k.locals),
    ...stmtsText(k, k.epilogue.row),
    loop(k.j, `${k.n}`),
    `const [sum] = [${k.parts?.parts ?? 1}].map((parts) => { const sums = [];`,
    `for (let p = 0; p < parts; p++) {`,
    `const sample = ${k.parts?.sample ?? 1}, samples = Math.floor(depth / sample);`,
    'const start = (q) => Math.floor(samples * q / parts) * sample;',
    'let sum = 0;',
    `for (let ${k.k.name} = start(p); ${k.k.name} < start(p + 1); ${k.k.name}++) {`,
    ...a.lines,
    ...b.lines,
    ...w.lines,
    `sum = m.fma32(${left}, ${right}, sum);`,
    '}',
    'sums.push(sum);',
    '}',
    'for (let w = 1; w < parts; w *= 2)',
    'for (let p = 0; p < parts; p += 2 * w) sums[p] = Math.fround(sums[p] + sums[p + w]);',
    'return sums[0]; });',
    ...stmtsText(k, k.epilogue.element),
    '}',
    '}',
    '}',
  ];
}
