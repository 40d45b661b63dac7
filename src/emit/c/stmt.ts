// Statements as C.
import { leastOf } from '../../base/dtype.ts';
import type { Expr } from '../../kernel/expr.ts';
import { invariants } from '../../kernel/rewrite.ts';
import type { Local, Matrix } from '../../kernel/kernel.ts';
import type { CpuStmt } from '../../schedule/cpu-kernel.ts';
import { cType, ExprWriter, literal } from './expr.ts';

const indent = (lines: readonly string[]): string[] => lines.map((l) => `  ${l}`);

export function declareLocals(locals: readonly Local[]): string[] {
  return locals.map((l, i) =>
    l.length ? `${cType(l.dtype)} t${i}[${l.length}] __attribute__((aligned(64)));` : `${cType(l.dtype)} t${i};`,
  );
}

/** The pragma at the start of the body of a loop that contains other loops. */
export const outerLoop = ({
  vector,
  body,
}: {
  readonly vector: boolean;
  readonly body: readonly CpuStmt[];
}): string[] =>
  !vector && body.some((s) => s.s === 'for' || s.s === 'reduce' || s.s === 'product' || s.s === 'transpose')
    ? ['DM_OUTER']
    : [];

/** `names`: expressions that have a C name already. */
export function emitBody(stmts: readonly CpuStmt[], names: ReadonlyMap<Expr, string> = new Map()): string[] {
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

/** Simultaneous stores: computes all values before the first store. */
function emitStores(run: readonly Extract<CpuStmt, { s: 'store' }>[], names: ReadonlyMap<Expr, string>): string[] {
  const w = new ExprWriter(names);
  const stores = run.map((s) => {
    const v = w.value(s.value);
    return `b${s.buffer}[${w.value(s.index)}] = ${v};`;
  });
  return [...w.lines, ...stores].length > 1 ? ['{', ...indent([...w.lines, ...stores]), '}'] : stores;
}

function emitStmt(s: Exclude<CpuStmt, { s: 'store' }>, names: ReadonlyMap<Expr, string>): string[] {
  const w = new ExprWriter(names);
  switch (s.s) {
    case 'for': {
      const n = s.index.name,
        extent = w.value(s.extent);
      return [
        '{',
        ...indent([
          ...w.lines,
          `const int64_t end_${n} = ${extent};`,
          ...(s.vector ? ['DM_VECTOR'] : []),
          `for (int64_t ${n} = 0; ${n} < end_${n}; ${n}++) {`,
          ...indent([...outerLoop(s), ...emitBody(s.body, names)]),
          '}',
        ]),
        '}',
      ];
    }
    case 'if': {
      const c = w.value(s.condition);
      return ['{', ...indent([...w.lines, `if (${c}) {`, ...indent(emitBody(s.body, names)), '}']), '}'];
    }
    case 'set': {
      const v = w.value(s.value),
        line = `t${s.local}${s.index ? `[${w.value(s.index)}]` : ''} = ${v};`;
      return w.lines.length ? ['{', ...indent([...w.lines, line]), '}'] : [line];
    }
    case 'fill':
      return [
        `for (size_t f = 0; f < sizeof t${s.local} / sizeof t${s.local}[0]; f++) t${s.local}[f] = ` +
          `${Number.isFinite(s.value) ? s.value : literal(s.value, 'float64')};`,
      ];
    case 'reduce':
      return emitReduce(s, names);
    case 'product':
      return emitProduct(s, names);
    case 'transpose': {
      const rows = w.value(s.rows),
        at = w.value(s.from.at);
      return [
        '{',
        ...indent([
          ...w.lines,
          `c->core->transpose(${rows}, ${s.columns}, b${s.from.of} + ${at}, ${s.from.rows}, t${s.to});`,
        ]),
        '}',
      ];
    }
    case 'prefetch': {
      const at = w.value(s.index);
      return ['{', ...indent([...w.lines, `__builtin_prefetch(b${s.buffer} + ${at});`]), '}'];
    }
  }
}

/**
 * 16 partial results: element j of a chunk goes to partial result j mod 16. Chunks of 4096. Partial results are joined
 * 8, 4, 2, 1; chunks in order. The order depends on the range alone.
 */
function emitReduce(s: Extract<CpuStmt, { s: 'reduce' }>, names: ReadonlyMap<Expr, string>): string[] {
  const n = s.index.name,
    head = new ExprWriter(names),
    extent = head.value(s.extent);
  const start = (t: (typeof s.targets)[number]): string =>
    literal(t.op === 'sum' ? 0 : leastOf(t.value.dtype), t.value.dtype);
  const joined = (t: (typeof s.targets)[number], into: string, x: string): string =>
    t.op === 'sum' ? `${into} + ${x}` : `dm_pick(${x}, ${into})`;
  const step = (
    into: (i: number) => string,
    values: readonly Expr[] = s.targets.map((t) => t.value),
    known = names,
  ): string[] => {
    const w = new ExprWriter(known);
    const done = s.targets.map((t, i) => {
      const v = w.value(values[i]),
        x = into(i);
      return `${x} = ${joined(t, x, v)};`;
    });
    return [`const int64_t ${n} = from + at + l;`, ...w.lines, ...done];
  };
  // A whole block of 16: computes what is the same for all its elements once, then the elements.
  const ofBlock = new Map(names),
    outside = new ExprWriter(names);
  if (s.blocks) for (const v of invariants(s.blocks.values, new Set([s.index]))) ofBlock.set(v, outside.value(v));
  const block = [
    ...(s.blocks ? [`DM_OUTER const int64_t ${s.blocks.index.name} = (from + at) / 16;`, ...outside.lines] : []),
    'DM_VECTOR',
    'for (int l = 0; l < 16; l++) {',
    ...indent(step((i) => `lane${i}[l]`, s.blocks?.values, ofBlock)),
    '}',
  ];
  // The elements after the last whole block: all 16 partial results are stored, and those without an element keep their
  // value.
  const rest = [
    ...s.targets.map((t, i) => `${cType(t.value.dtype)} next${i} = lane${i}[l];`),
    'if (l < size - at) {',
    ...indent(step((i) => `next${i}`)),
    '}',
    ...s.targets.map((_, i) => `lane${i}[l] = next${i};`),
  ];
  if (s.extent.k === 'const' && s.extent.value < 16) return ['{', ...indent(few(s.extent.value)), '}'];

  /** With fewer elements than partial results, the other partial results would add nothing. */
  function few(count: number): string[] {
    const first = step((i) => `lane${i}[l]`).slice(1),
      tree: string[] = [];
    for (let w = 8, left = count; w >= 1; w /= 2) {
      if (left > w)
        tree.push(
          `for (int l = 0; l < ${left - w}; l++) {`,
          ...s.targets.map((t, i) => `  lane${i}[l] = ${joined(t, `lane${i}[l]`, `lane${i}[l + ${w}]`)};`),
          '}',
        );
      left = Math.min(left, w);
    }
    return [
      ...s.targets.map(
        (t, i) => `${cType(t.value.dtype)} lane${i}[${Math.max(count, 1)}] __attribute__((aligned(64)));`,
      ),
      ...s.targets.map((t, i) => `for (int l = 0; l < ${Math.max(count, 1)}; l++) lane${i}[l] = ${start(t)};`),
      'DM_VECTOR',
      `for (int l = 0; l < ${count}; l++) {`,
      `  const int64_t ${n} = l;`,
      ...indent(first),
      '}',
      ...tree,
      ...s.targets.map((t, i) => `t${t.local} = ${joined(t, start(t), `lane${i}[0]`)};`),
    ];
  }

  const lines = [
    ...head.lines,
    `const int64_t end = ${extent};`,
    ...s.targets.map((t) => `t${t.local} = ${start(t)};`),
    'for (int64_t from = 0; from < end; from += 4096) {',
    ...indent([
      'const int64_t size = end - from < 4096 ? end - from : 4096;',
      ...s.targets.map((t, i) => `${cType(t.value.dtype)} lane${i}[16] __attribute__((aligned(64)));`),
      ...s.targets.map((t, i) => `for (int l = 0; l < 16; l++) lane${i}[l] = ${start(t)};`),
      'int64_t at = 0;',
      'for (; at + 16 <= size; at += 16) {',
      ...indent(block),
      '}',
      'if (at < size) {',
      '  DM_VECTOR',
      '  for (int l = 0; l < 16; l++) {',
      ...indent(indent(rest)),
      '  }',
      '}',
      ...[8, 4, 2, 1].flatMap((w) => [
        ...(w > 2 ? ['DM_VECTOR'] : []),
        `for (int l = 0; l < ${w}; l++) {`,
        ...s.targets.map((t, i) => `  lane${i}[l] = ${joined(t, `lane${i}[l]`, `lane${i}[l + ${w}]`)};`),
        '}',
      ]),
      ...s.targets.map((t, i) => `t${t.local} = ${joined(t, `t${t.local}`, `lane${i}[0]`)};`),
    ]),
    '}',
  ];
  return ['{', ...indent(lines), '}'];
}

/** A product by the matrix core of the device. */
function emitProduct(s: Extract<CpuStmt, { s: 'product' }>, names: ReadonlyMap<Expr, string>): string[] {
  const w = new ExprWriter(names),
    at = (m: Matrix): string => `${m.in === 'local' ? 't' : 'b'}${m.of} + ${w.value(m.at)}`;
  const sizes = [w.value(s.rows), s.width, w.value(s.depth)],
    matrices = [at(s.to), s.to.rows, at(s.a), s.a.rows, s.a.columns, at(s.b), s.b.rows];
  const call = `c->core->product(${[...sizes, ...matrices].join(', ')});`;
  return ['{', ...indent([...w.lines, call]), '}'];
}
