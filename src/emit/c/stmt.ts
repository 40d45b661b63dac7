// Statements as C.
import { leastOf } from '../../base/dtype.ts';
import type { Expr } from '../../kernel/expr.ts';
import { invariants } from '../../kernel/rewrite.ts';
import type { Local, Stmt } from '../../kernel/kernel.ts';
import { cType, ExprWriter, literal } from './expr.ts';

const indent = (lines: readonly string[]): string[] => lines.map((l) => `  ${l}`);

export function declareLocals(locals: readonly Local[]): string[] {
  return locals.map((l, i) => (l.length
    ? `${cType(l.dtype)} t${i}[${l.length}] __attribute__((aligned(64)));`
    : `${cType(l.dtype)} t${i};`));
}

/** What stands first in the body of a loop around other loops. */
export const outerLoop = ({ vector, body }: { readonly vector: boolean; readonly body: readonly Stmt[] }): string[] =>
  (!vector && body.some((s) => s.s === 'for' || s.s === 'reduce') ? ['DM_OUTER'] : []);

/** `names`: expressions that have a C name here. */
export function emitBody(stmts: readonly Stmt[], names: ReadonlyMap<Expr, string> = new Map()): string[] {
  const out: string[] = [];
  for (let i = 0; i < stmts.length; i++) {
    const s = stmts[i];
    if (s.s === 'store') {
      const run = [s];
      for (let next = stmts[i + 1]; next?.s === 'store'; next = stmts[++i + 1]) run.push(next);
      out.push(...emitStores(run, names));
    } else out.push(...emitStmt(s, names));
  }
  return out;
}

/** Simultaneous stores: all values first. */
function emitStores(run: readonly Extract<Stmt, { s: 'store' }>[], names: ReadonlyMap<Expr, string>): string[] {
  const w = new ExprWriter(names);
  const stores = run.map((s) => { const v = w.value(s.value); return `b${s.buffer}[${w.value(s.index)}] = ${v};`; });
  return [...w.lines, ...stores].length > 1 ? ['{', ...indent([...w.lines, ...stores]), '}'] : stores;
}

function emitStmt(s: Exclude<Stmt, { s: 'store' }>, names: ReadonlyMap<Expr, string>): string[] {
  const w = new ExprWriter(names);
  switch (s.s) {
    case 'for': {
      const n = s.index.name, extent = w.value(s.extent);
      return ['{', ...indent([...w.lines, `const int64_t end_${n} = ${extent};`, ...(s.vector ? ['DM_VECTOR'] : []),
        `for (int64_t ${n} = 0; ${n} < end_${n}; ${n}++) {`, ...indent([...outerLoop(s), ...emitBody(s.body, names)]), '}']), '}'];
    }
    case 'if': {
      const c = w.value(s.condition);
      return ['{', ...indent([...w.lines, `if (${c}) {`, ...indent(emitBody(s.body, names)), '}']), '}'];
    }
    case 'set': {
      const v = w.value(s.value), line = `t${s.local}${s.index ? `[${w.value(s.index)}]` : ''} = ${v};`;
      return w.lines.length ? ['{', ...indent([...w.lines, line]), '}'] : [line];
    }
    case 'fill': return [`for (size_t f = 0; f < sizeof t${s.local} / sizeof t${s.local}[0]; f++) t${s.local}[f] = ${Number.isFinite(s.value) ? s.value : literal(s.value, 'float64')};`];
    case 'reduce': return emitReduce(s, names);
  }
}

/**
 * 16 partial results, element j of a chunk to lane j mod 16; chunks of 4096; lanes joined 8, 4, 2, 1; chunks joined in order.
 * The order depends on the range alone.
 */
function emitReduce(s: Extract<Stmt, { s: 'reduce' }>, names: ReadonlyMap<Expr, string>): string[] {
  const n = s.index.name, head = new ExprWriter(names), extent = head.value(s.extent);
  const start = (t: (typeof s.targets)[number]): string => literal(t.op === 'sum' ? 0 : leastOf(t.value.dtype), t.value.dtype);
  const join = (op: string, a: string, b: string): string => (op === 'sum' ? `${a} + ${b}` : `${a} > ${b} ? ${a} : ${b}`);
  const step = (into: (i: number) => string, values: readonly Expr[] = s.targets.map((t) => t.value), known = names): string[] => {
    const w = new ExprWriter(known);
    const done = s.targets.map((t, i) => { const v = w.value(values[i]), x = into(i); return `${x} = ${t.op === 'sum' ? `${x} + ${v}` : `dm_pick(${v}, ${x})`};`; });
    return [`const int64_t ${n} = from + at + l;`, ...w.lines, ...done];
  };
  // A whole block: what is one for all of it, and its lanes.
  const ofBlock = new Map(names), outside = new ExprWriter(names);
  if (s.blocks) for (const v of invariants(s.blocks.values, new Set([s.index]))) ofBlock.set(v, outside.value(v));
  const block = [...(s.blocks ? [`DM_OUTER const int64_t ${s.blocks.index.name} = (from + at) / 16;`, ...outside.lines] : []),
    'DM_VECTOR', 'for (int l = 0; l < 16; l++) {', ...indent(step((i) => `lane${i}[l]`, s.blocks?.values, ofBlock)), '}'];
  // What is left over: lanes without an element keep what they have, by a store of all lanes.
  const rest = [
    ...s.targets.map((t, i) => `${cType(t.value.dtype)} next${i} = lane${i}[l];`),
    'if (l < size - at) {', ...indent(step((i) => `next${i}`)), '}',
    ...s.targets.map((_, i) => `lane${i}[l] = next${i};`)];
  const lines = [...head.lines, `const int64_t end = ${extent};`,
    ...s.targets.map((t) => `t${t.local} = ${start(t)};`),
    'for (int64_t from = 0; from < end; from += 4096) {',
    ...indent([
      'const int64_t size = end - from < 4096 ? end - from : 4096;',
      ...s.targets.map((t, i) => `${cType(t.value.dtype)} lane${i}[16] __attribute__((aligned(64)));`),
      ...s.targets.map((t, i) => `for (int l = 0; l < 16; l++) lane${i}[l] = ${start(t)};`),
      'int64_t at = 0;',
      'for (; at + 16 <= size; at += 16) {', ...indent(block), '}',
      'if (at < size) {', '  DM_VECTOR', '  for (int l = 0; l < 16; l++) {', ...indent(indent(rest)), '  }', '}',
      ...[8, 4, 2, 1].flatMap((w) => [...(w > 2 ? ['DM_VECTOR'] : []), `for (int l = 0; l < ${w}; l++) {`,
        ...s.targets.map((t, i) => `  lane${i}[l] = ${t.op === 'sum' ? join('sum', `lane${i}[l]`, `lane${i}[l + ${w}]`) : `dm_pick(lane${i}[l + ${w}], lane${i}[l])`};`), '}']),
      ...s.targets.map((t, i) => `t${t.local} = ${t.op === 'sum' ? join('sum', `t${t.local}`, `lane${i}[0]`) : `dm_pick(lane${i}[0], t${t.local})`};`)]),
    '}'];
  return ['{', ...indent(lines), '}'];
}
