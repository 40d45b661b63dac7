// Statements that scheduled kernels of both kinds have, as JavaScript text.
import type { Expr, Scalar } from '../../src/kernel/expr.ts';
import type { IfStmt, SetStmt, StoreStmt } from '../../src/kernel/kernel.ts';
import { element, ExprText, type TextOptions } from './expressions.ts';

export type Names = ReadonlyMap<Expr, string>;

/** Text of statements, of which `other` writes those that are not the same for both kinds. */
export function bodyText<S extends { readonly s: string }>(
  o: TextOptions,
  body: readonly (S | IfStmt<S> | SetStmt | StoreStmt)[],
  other: (s: S, names: Names) => string[],
  names: Names = new Map(),
): string[] {
  const isStore = (s: S | IfStmt<S> | SetStmt | StoreStmt | undefined): s is StoreStmt => s?.s === 'store';
  const out: string[] = [];
  for (let i = 0; i < body.length;) {
    const s = body[i++];
    if (isStore(s)) {
      const run = [s];
      for (let next = body[i]; isStore(next); next = body[++i]) run.push(next);
      out.push(...storesText(o, run, names));
    } else if (s.s === 'set') out.push(...setText(o, s as SetStmt, names));
    else if (s.s === 'if') {
      const w = new ExprText(o, names),
        { condition, body: inside } = s as IfStmt<S>,
        value = w.value(condition);
      out.push('{', ...w.lines, `if (${value}) {`, ...bodyText(o, inside, other, names), '}', '}');
    } else out.push(...other(s as S, names));
  }
  return out;
}

/** Simultaneous stores: all values are computed before the first store. */
function storesText(o: TextOptions, run: readonly StoreStmt[], names: Names): string[] {
  const w = new ExprText(o, names);
  const stores = run.map(
    ({ buffer, index, value }) => `b${buffer}[k.write(B${buffer}, ${w.value(index)})] = ${w.value(value)};`,
  );
  return ['{', ...w.lines, ...stores, '}'];
}

function setText(o: TextOptions, { local, index, value }: SetStmt, names: Names): string[] {
  const w = new ExprText(o, names),
    v = w.value(value),
    to = index ? `t${local}[${element(o, local, w.value(index), 'write')}]` : `t${local}`;
  return ['{', ...w.lines, `${to} = ${v};`, '}'];
}

/** a + b in the type of a sum. */
export function sumText(dtype: Scalar, a: string, b: string): string {
  if (dtype === 'float32') return `Math.fround(${a} + ${b})`;
  if (dtype === 'int32') return `((${a} + ${b}) | 0)`;
  return dtype === 'uint32' ? `((${a} + ${b}) >>> 0)` : `(${a} + ${b})`;
}

/** Names for the buffers of a kernel (`b`: views, `B`: what the tracker knows of them) and for its integers. */
export const parametersText = (k: { readonly buffers: readonly unknown[]; readonly ints: number }): string[] => [
  ...k.buffers.map((_, i) => `const b${i} = b[${i}], B${i} = B[${i}];`),
  ...Array.from({ length: k.ints }, (_, i) => `const n${i} = n[${i}];`),
];
