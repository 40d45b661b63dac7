// Kernels as text. People read it (`dynamoe inspect --stage kernels`), and its hash is the key of a kernel: equal text
// means equal code.
import type { KernelParts } from '../base/parts.ts';
import { children, postorder, type Expr } from './expr.ts';
import type { CommonStmt, Extent, Kernel, MatmulKernel, Matrix, Stmt } from './kernel.ts';

/** Operators that stand between their operands, also in C-like text. */
export const INFIX: Readonly<Record<string, string>> = {
  add: '+',
  sub: '-',
  mul: '*',
  div: '/',
  mod: '%',
  lt: '<',
  le: '<=',
  eq: '==',
  ne: '!=',
  and: '&',
  or: '|',
  xor: '^',
  shl: '<<',
  shr: '>>>',
};

/** The parts of a sum (base/parts.ts). */
const partsText = ({ parts, sample, offsets, step = 1 }: KernelParts): string =>
  offsets === undefined
    ? ` in ${parts} parts of ${sample}`
    : ` in ${parts} parts from ${sample === 1 ? '' : `${sample} * `}b${offsets}[${step === 1 ? '' : `${step} * `}p]`;

/** `names`: expressions that have a name already. */
export function printExpr(e: Expr, names: ReadonlyMap<Expr, string> = new Map()): string {
  const bound = names.get(e);
  if (bound !== undefined) return bound;
  const p = (x: Expr): string => printExpr(x, names);
  switch (e.k) {
    case 'var':
      return e.name;
    case 'const':
      return e.dtype === 'index' || e.dtype === 'float32' ? number(e.value) : `${number(e.value)}:${e.dtype}`;
    case 'int':
      return `n${e.slot}`;
    case 'load':
      return `b${e.buffer}[${p(e.index)}]`;
    case 'local':
      return e.index ? `t${e.local}[${p(e.index)}]` : `t${e.local}`;
    case 'sum':
      return 'sum';
    case 'linear': {
      const parts = e.terms.map(([c, t]) => (c === 1 ? p(t) : `${c}*${p(t)}`));
      return `(${[...parts, ...(e.constant ? [`${e.constant}`] : [])].join(' + ')})`;
    }
    case 'reduce':
      return (
        `${e.op}.${e.order}(${e.index.name} < ${p(e.extent)}` + `${e.parts ? partsText(e.parts) : ''}: ${p(e.body)})`
      );
    case 'op': {
      const args = e.args.map(p);
      if (e.op === 'cast') return `${e.dtype}(${args[0]})`;
      if (e.op === 'bitcast') return `bits.${e.dtype}(${args[0]})`;
      const infix = INFIX[e.op];
      return infix && args.length === 2 ? `(${args[0]} ${infix} ${args[1]})` : `${e.op}(${args.join(', ')})`;
    }
  }
}

const number = (v: number): string => (Object.is(v, -0) ? '-0' : `${v}`);

/**
 * Prints an expression that occurs more than once as `e = ...` first, so that the text does not grow with the number of
 * uses.
 */
export function printShared(
  exprs: readonly Expr[],
  indent: string,
  render: (p: (e: Expr) => string) => string[],
): string {
  const uses = new Map<Expr, number>();
  const order = postorder(exprs);
  for (const e of [...order.flatMap(children), ...exprs]) uses.set(e, (uses.get(e) ?? 0) + 1);
  const names = new Map<Expr, string>(),
    lines: string[] = [];
  for (const e of order) {
    if ((e.k !== 'op' && e.k !== 'reduce') || (uses.get(e) ?? 0) < 2) continue;
    const text = printExpr(e, names);
    names.set(e, `e${names.size}`);
    lines.push(`${names.get(e)} = ${text}`);
  }
  return [...lines, ...render((e) => printExpr(e, names))].map((line) => indent + line).join('\n');
}

/** Statements that scheduled kernels have too. `body` prints the statements inside one, further indented. */
export function printCommon<S>(s: CommonStmt<S>, indent: string, body: (stmts: readonly S[]) => string): string {
  switch (s.s) {
    case 'if':
      return `${indent}if ${printExpr(s.condition)}:\n${body(s.body)}`;
    case 'set':
      return printShared([...(s.index ? [s.index] : []), s.value], indent, (p) => [
        `t${s.local}${s.index ? `[${p(s.index)}]` : ''} = ${p(s.value)}`,
      ]);
    case 'fill':
      return `${indent}t${s.local}[..] = ${s.value}`;
    case 'store':
      return printShared([s.index, s.value], indent, (p) => [`b${s.buffer}[${p(s.index)}] = ${p(s.value)}`]);
  }
}

export const printMatrix = (m: Matrix, p: (e: Expr) => string = printExpr): string =>
  `${m.in === 'local' ? 't' : 'b'}${m.of}[${p(m.at)} + ${m.rows}, ${m.columns}]`;

function printStmt(s: Stmt, indent: string): string {
  const block = (body: readonly Stmt[]): string => body.map((b) => printStmt(b, `${indent}  `)).join('\n');
  switch (s.s) {
    case 'for':
      return `${indent}for ${s.index.name} < ${printExpr(s.extent)}${s.parallel ? ' parallel' : ''}:\n${block(s.body)}`;
    case 'reduce':
      return printShared([s.extent, ...s.targets.map((t) => t.value)], indent, (p) =>
        s.targets.map((t) => `t${t.local} = ${t.op}(${s.index.name} < ${p(s.extent)}: ${p(t.value)})`),
      );
    case 'prefetch':
      return `${indent}prefetch ${printMatrix(s.from)}, ${printExpr(s.rows)} rows, ${s.columns} columns`;
    case 'transpose':
      return (
        `${indent}t${s.to}[.., ${s.lanes}] = transpose of ${printMatrix(s.from)}, ${printExpr(s.rows)} rows, ` +
        `${s.columns} columns`
      );
    case 'product':
      return printShared([s.rows, s.depth, s.to.at, s.a.at, s.b.at], indent, (p) => [
        `${printMatrix(s.to, p)} += ${printMatrix(s.a, p)} * ${printMatrix(s.b, p)}, ` +
          `${p(s.rows)} rows, ${s.lanes} lanes, depth ${p(s.depth)}`,
      ]);
    case 'histogram':
      return printShared([s.extent, s.key], indent, (p) => [
        `t${s.to} += histogram(${s.index.name} < ${p(s.extent)}: ${p(s.key)})`,
      ]);
    case 'scan':
      return `${indent}t${s.array}, t${s.total} = scan(t${s.array})`;
    case 'rank':
      return (
        printShared([s.extent, s.value], indent, (p) => [
          `t${s.key}, t${s.place} = rank(${s.index.name} < ${p(s.extent)}: ${p(s.value)}) from t${s.next}:`,
        ]) + `\n${block(s.body)}`
      );
    default:
      return printCommon(s, indent, block);
  }
}

/** Buffers, integers and locals: the first lines of a kernel's text. */
export function printHead({ buffers, ints, locals }: Pick<Kernel, 'buffers' | 'ints' | 'locals'>): string {
  const head = buffers.map((b, i) => `b${i}: ${b.access} ${b.dtype}`).join(', '),
    lines = locals.map((l, i) => `  t${i}: ${l.dtype}${l.length ? `[${l.length}]` : ''}`).join('\n');
  return `(${head})${ints ? ` ints ${ints}` : ''}\n${lines ? `${lines}\n` : ''}`;
}

const extent = (e: Extent): string =>
  typeof e === 'number'
    ? `${e}`
    : 'count' in e
      ? `${e.times === 1 ? '' : `${e.times} * `}b${e.count}[${e.at}]`
      : `b${e.offsets}[z..z+1]`;

export function printKernel(k: Kernel): string {
  const body = (stmts: readonly Stmt[]): string => stmts.map((s) => printStmt(s, '    ')).join('\n');
  if (k.form === 'loops') {
    const { index, extent, work, elements, row } = k.grid;
    const about = [
      work === null ? [] : `work ${work}`,
      elements ? 'elements' : [],
      row === null ? [] : `rows of ${row}`,
    ];
    return (
      `loops ${printHead(k)}  grid ${index.name} < ${[printExpr(extent), ...about.flat()].join(', ')}:\n` + body(k.body)
    );
  }
  return (
    `matmul ${printHead(k)}${printProduct(k)}\n  ` + `epilogue:\n${body([...k.epilogue.row, ...k.epilogue.element])}`
  );
}

/** The loops and operands of a matmul. */
export const printProduct = (k: Omit<MatmulKernel, 'epilogue'>): string =>
  `  z=${k.z.name} < ${k.groups}, i=${k.i.name} < ${extent(k.m)}, j=${k.j.name} < ${k.n}, ` +
  `k=${k.k.name} < ${extent(k.depth)}${k.parts ? partsText(k.parts) : ''}, ` +
  `sums ${k.dtype}\n` +
  printShared([k.a, k.b], '  ', (p) => [`a = ${p(k.a)}`, `b = ${p(k.b)}`]);
