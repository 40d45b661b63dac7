// Scalar expressions of the kernel language: immutable, hash-consed nodes (equal expressions are the same object), so
// that a value that is used twice in a kernel is computed once. Index expressions (dtype 'index') are kept in a linear
// normal form.
import type { DType } from '../base/dtype.ts';
import type { KernelParts } from '../base/parts.ts';

/** Element types that kernels compute in; 'index' is an integer wide enough for any address (int64 in C). */
export type Scalar = DType | 'index';

export const UNARY = [
  'neg',
  'abs',
  'sqrt',
  'floor',
  'round',
  'exp',
  'log',
  'tanh',
  'sigmoid',
  'erf',
  'sin',
  'cos',
  'not',
  'isfinite',
] as const;
export const BINARY = [
  'add',
  'sub',
  'mul',
  'div',
  'mod',
  'min',
  'max',
  'lt',
  'le',
  'eq',
  'ne',
  'and',
  'or',
  'xor',
  'shl',
  'shr',
  'pow',
] as const;
export type UnaryOp = (typeof UNARY)[number];
export type BinaryOp = (typeof BINARY)[number];
/**
 * round: to the nearest whole number, halves to the even one. fma(a, b, c): a * b + c, rounded once. select(c, a, b): c
 * ? a : b. threefry(k0, k1, c0, c1): the first output word. Integers are added, subtracted and multiplied modulo 2^32;
 * div truncates towards zero, and gives 0 for a division by 0. pow: float64 only. Values of 16-bit floats are their
 * bits, which are only selected, stored and cast. bitcast: the same bits as another type, float32 or int32. shl, shr:
 * of int32 and uint32 by 0 to 31 bits; shr of int32 keeps the sign. functions.ts defines exp, log, tanh, sigmoid, erf,
 * sin and cos of float32.
 */
export type ScalarOp = UnaryOp | BinaryOp | 'fma' | 'select' | 'cast' | 'bitcast' | 'threefry';
const COMPARISONS: readonly ScalarOp[] = ['lt', 'le', 'eq', 'ne', 'isfinite'];
export type ReduceOp = 'sum' | 'max';

/** A loop variable: 0 <= value < extent; `max` is the largest value it can take (Infinity if unknown). */
export interface Var {
  readonly k: 'var';
  readonly id: number;
  readonly dtype: 'index';
  readonly name: string;
  readonly max: number;
}
export interface OpExpr {
  readonly k: 'op';
  readonly id: number;
  readonly dtype: Scalar;
  readonly op: ScalarOp;
  readonly args: readonly Expr[];
}
export type Expr =
  | Var
  | { readonly k: 'const'; readonly id: number; readonly dtype: Scalar; readonly value: number }
  /**
   * The kernel's run-time integer number `slot` (a bound, a random key). Its value is not part of the kernel's text.
   */
  | { readonly k: 'int'; readonly id: number; readonly dtype: 'index'; readonly slot: number }
  | { readonly k: 'load'; readonly id: number; readonly dtype: Scalar; readonly buffer: number; readonly index: Expr }
  /** constant + sum of coefficient * term, terms sorted by id. */
  | {
      readonly k: 'linear';
      readonly id: number;
      readonly dtype: 'index';
      readonly constant: number;
      readonly terms: readonly Term[];
    }
  | OpExpr
  /**
   * Reduces `body` over `index` from 0 to `extent` - 1, in the order of docs/architecture/lowering.md: 'lanes' (16
   * partial results) or 'serial' (one), in chunks of 4096. parts: a serial sum in parts (base/parts.ts).
   */
  | {
      readonly k: 'reduce';
      readonly id: number;
      readonly dtype: Scalar;
      readonly op: ReduceOp;
      readonly order: ReduceOrder;
      readonly index: Var;
      readonly extent: Expr;
      readonly body: Expr;
      readonly parts: KernelParts | null;
    }
  /** A local of the kernel: a scalar, or element `index` of an array. */
  | {
      readonly k: 'local';
      readonly id: number;
      readonly dtype: Scalar;
      readonly local: number;
      readonly index: Expr | null;
    }
  /** In a matmul's epilogue: the finished sum of this element. */
  | { readonly k: 'sum'; readonly id: number; readonly dtype: Scalar };
export type Term = readonly [coefficient: number, term: Expr];
export type ReduceOrder = 'lanes' | 'serial';

type Draft<T> = T extends { id: number } ? Omit<T, 'id'> : never;

/**
 * Makes the expressions of one kernel. Ids number them in the order in which they are made, so that the same
 * construction always gives the same kernel text.
 */
export class Exprs {
  readonly #table = new Map<string, Expr>();
  #depth = 0;
  #vars = 0;

  #intern(key: string, node: Draft<Expr>): Expr {
    const found = this.#table.get(key);
    if (found) return found;
    const made = { ...node, id: this.#table.size } as Expr;
    this.#table.set(key, made);
    return made;
  }

  const(value: number, dtype: Scalar): Expr {
    return this.#intern(`c${Object.is(value, -0) ? '-0' : value}:${dtype}`, { k: 'const', dtype, value });
  }

  index(value: number): Expr {
    return this.const(value, 'index');
  }

  /** A fresh loop variable with values 0..extent-1. */
  loop(extent: Expr | number, name = 'i'): Var {
    return this.#var(`${name}${this.#vars++}`, typeof extent === 'number' ? extent - 1 : maxOf(extent) - 1);
  }

  #var(name: string, max: number): Var {
    return this.#intern(`v${name}<${max}`, { k: 'var', dtype: 'index', name, max }) as Var;
  }

  /** A variable of another kernel's expressions. Variables that are made later get other names. */
  adopt({ name, max }: Var): Var {
    this.#vars = Math.max(this.#vars, Number(/\d+$/.exec(name)?.[0] ?? -1) + 1);
    return this.#var(name, max);
  }

  int(slot: number): Expr {
    return this.#intern(`n${slot}`, { k: 'int', dtype: 'index', slot });
  }

  load(buffer: number, index: Expr, dtype: Scalar): Expr {
    return this.#intern(`l${buffer}[${index.id}]`, { k: 'load', dtype, buffer, index });
  }

  local(local: number, dtype: Scalar, index: Expr | null = null): Expr {
    return this.#intern(`L${local}[${index?.id ?? ''}]`, { k: 'local', dtype, local, index });
  }

  sum(dtype: Scalar): Expr {
    return this.#intern('sum', { k: 'sum', dtype });
  }

  /** `dtype`: of the result; by default bool for a comparison, and that of the last operand for the others. */
  op(
    op: ScalarOp,
    args: readonly Expr[],
    dtype = COMPARISONS.includes(op) ? 'bool' : args[args.length - 1].dtype,
  ): Expr {
    const known = this.#fold(op, args);
    return known ?? this.#intern(`${op}(${args.map((a) => a.id).join()}):${dtype}`, { k: 'op', dtype, op, args });
  }

  cast(a: Expr, dtype: Scalar): Expr {
    return this.op('cast', [a], dtype);
  }
  select(condition: Expr, a: Expr, b: Expr): Expr {
    return this.op('select', [condition, a, b]);
  }
  lt(a: Expr, b: Expr): Expr {
    return this.op('lt', [a, b]);
  }
  le(a: Expr, b: Expr): Expr {
    return this.op('le', [a, b]);
  }
  eq(a: Expr, b: Expr): Expr {
    return this.op('eq', [a, b]);
  }
  and(a: Expr, b: Expr): Expr {
    return this.op('and', [a, b]);
  }
  or(a: Expr, b: Expr): Expr {
    return this.op('or', [a, b]);
  }
  min(a: Expr, b: Expr): Expr {
    return this.op('min', [a, b]);
  }
  max(a: Expr, b: Expr): Expr {
    return this.op('max', [a, b]);
  }

  /** Simplifies an operation where constants or the ranges of indices give its result; null where they do not. */
  #fold(op: ScalarOp, args: readonly Expr[]): Expr | null {
    const [a, b, c] = args;
    // x / d < n is x < n d, and n <= x / d is n d <= x: more is known of the range of x than of that of x / d.
    const [left, right] = op === 'lt' ? [a, b] : [b, a];
    if (
      (op === 'lt' || op === 'le') &&
      left.k === 'op' &&
      left.op === 'div' &&
      left.dtype === 'index' &&
      right.k === 'const' &&
      left.args[1].k === 'const'
    ) {
      const scaled = this.index(right.value * left.args[1].value),
        inner = left.args[0];
      return this.op(op, op === 'lt' ? [inner, scaled] : [scaled, inner], 'bool');
    }
    const truth = (x: Expr): boolean | null => (x.k === 'const' && x.dtype === 'bool' ? x.value !== 0 : null);
    const known = (value: boolean): Expr => this.const(value ? 1 : 0, 'bool');
    switch (op) {
      case 'select':
        return truth(a) === null ? (b === c ? b : null) : truth(a) ? b : c;
      case 'and':
        return truth(a) === null ? (truth(b) ? a : truth(b) === false ? b : null) : truth(a) ? b : a;
      case 'lt':
        return a.dtype !== 'index'
          ? null
          : maxOf(a) < minOf(b)
            ? known(true)
            : minOf(a) >= maxOf(b)
              ? known(false)
              : null;
      case 'le':
        return a.dtype !== 'index'
          ? null
          : maxOf(a) <= minOf(b)
            ? known(true)
            : minOf(a) > maxOf(b)
              ? known(false)
              : null;
      default:
        return null;
    }
  }

  /** The variable of a reduction is named by its nesting depth, so that equal reductions are one expression. */
  reduce(
    op: ReduceOp,
    order: ReduceOrder,
    extent: Expr | number,
    body: (index: Expr) => Expr,
    parts: KernelParts | null = null,
  ): Expr {
    const ext = typeof extent === 'number' ? this.index(extent) : extent;
    const index = this.#var(`r${this.#depth}`, maxOf(ext) - 1);
    this.#depth++;
    const value = body(index);
    this.#depth--;
    return this.reduceOver(op, order, ext, index, value, parts);
  }

  reduceOver(op: ReduceOp, order: ReduceOrder, extent: Expr, index: Var, body: Expr, parts: KernelParts | null): Expr {
    const cut = parts ? `/${parts.parts}/${parts.sample}/${parts.offsets ?? ''}/${parts.step ?? ''}` : '';
    return this.#intern(`${op}${order}${index.id}<${extent.id}${cut}:${body.id}`, {
      k: 'reduce',
      dtype: body.dtype,
      op,
      order,
      index,
      extent,
      body,
      parts,
    });
  }

  // ---- arithmetic on indices, kept in linear form ----

  linear(constant: number, terms: readonly Term[]): Expr {
    const sum = new Map<Expr, number>();
    let base = constant;
    for (const [c, t] of terms) {
      if (t.k === 'const') base += c * t.value;
      else if (t.k === 'var' && t.max <= 0)
        continue; // always 0
      else if (t.k === 'linear') {
        base += c * t.constant;
        for (const [ci, ti] of t.terms) sum.set(ti, (sum.get(ti) ?? 0) + c * ci);
      } else sum.set(t, (sum.get(t) ?? 0) + c);
    }
    rejoin(sum);
    const kept = [...sum]
      .filter(([, c]) => c !== 0)
      .map(([t, c]): Term => [c, t])
      .sort((a, b) => a[1].id - b[1].id);
    if (kept.length === 0) return this.index(base);
    if (kept.length === 1 && base === 0 && kept[0][0] === 1) return kept[0][1];
    return this.#intern(`lin${base}${kept.map(([c, t]) => `+${c}*${t.id}`).join('')}`, {
      k: 'linear',
      dtype: 'index',
      constant: base,
      terms: kept,
    });
  }

  /** The sum of its operands: indices, numbers, and indices with a coefficient. */
  add(...operands: readonly (Expr | number | Term)[]): Expr {
    let constant = 0;
    const terms: Term[] = [];
    for (const x of operands)
      if (typeof x === 'number') constant += x;
      else terms.push(isTerm(x) ? x : [1, x]);
    return this.linear(constant, terms);
  }
  scale(a: Expr, c: number): Expr {
    return this.linear(0, [[c, a]]);
  }

  /**
   * Floor division of a non-negative index by a constant. Division by 0 gives 0: it occurs only for a dimension of size
   * 0.
   */
  div(a: Expr, d: number): Expr {
    if (!(d > 0)) return this.index(0);
    if (d === 1) return a;
    const { whole, rest } = this.#split(a, d);
    const unit = rest && this.#unit(rest, d);
    if (unit) return this.add(whole, this.div(unit.quotient, d / unit.size));
    if (!rest) return whole;
    const [x, by] =
      rest.k === 'op' && rest.op === 'div' && rest.args[1].k === 'const'
        ? [rest.args[0], rest.args[1].value * d]
        : [rest, d];
    return this.add(whole, this.op('div', [x, this.index(by)], 'index')); // (x / a) / b is x / (a b)
  }

  mod(a: Expr, d: number): Expr {
    if (!(d > 1)) return this.index(0);
    const { small, rest } = this.#split(a, d);
    const unit = rest && this.#unit(rest, d);
    if (unit) return this.add(this.scale(this.mod(unit.quotient, d / unit.size), unit.size), unit.small);
    return rest ? this.op('mod', [rest, this.index(d)], 'index') : small;
  }

  /**
   * Writes a as size * quotient + small, where small < size and size divides d: then a / d is quotient / (d / size).
   */
  #unit(a: Expr, d: number): { size: number; quotient: Expr; small: Expr } | null {
    if (a.k !== 'linear') return null;
    for (const size of new Set(a.terms.map(([c]) => gcd(c, d)).sort((x, y) => y - x))) {
      if (size === 1 || size === d) continue;
      const { whole, small, rest } = this.#split(a, size);
      if (rest === null) return { size, quotient: whole, small };
    }
    return null;
  }

  /**
   * Writes a as d * whole + small + rest, where the terms of a show that small < d. `rest` is what remains to be
   * divided; null if nothing does.
   */
  #split(a: Expr, d: number): { whole: Expr; small: Expr; rest: Expr | null } {
    const [constant, terms] =
      a.k === 'linear' ? [a.constant, a.terms] : a.k === 'const' ? [a.value, []] : [0, [[1, a] as Term]];
    const divided = terms.filter(([c]) => c % d === 0),
      left = terms.filter(([c]) => c % d !== 0);
    const whole = this.linear(
      Math.floor(constant / d),
      divided.map(([c, t]): Term => [c / d, t]),
    );
    const small = this.linear(constant - Math.floor(constant / d) * d, left);
    if (minOf(small, 0) < 0) return { whole: this.index(0), small: a, rest: maxOf(a) < d ? null : a };
    return { whole, small, rest: maxOf(small) < d ? null : small };
  }
}

const isTerm = (x: Expr | Term): x is Term => Array.isArray(x);
const gcd = (a: number, b: number): number => (b === 0 ? Math.abs(a) : gcd(b, a % b));

/** Replaces n d (x / d) + n (x mod d) by n x. x may be a quotient itself, so that the result may be joined again. */
function rejoin(sum: Map<Expr, number>): void {
  for (let again = true; again;) {
    again = false;
    for (const [t, c] of [...sum]) {
      if (t.k !== 'op' || t.op !== 'mod' || c === 0 || t.args[1].k !== 'const') continue;
      const x = t.args[0],
        d = t.args[1].value;
      const [y, by] =
        x.k === 'op' && x.op === 'div' && x.args[1].k === 'const' ? [x.args[0], x.args[1].value * d] : [x, d];
      const quotient = [...sum.keys()].find(
        (u) => u.k === 'op' && u.op === 'div' && u.args[0] === y && u.args[1].k === 'const' && u.args[1].value === by,
      );
      if (!quotient || sum.get(quotient) !== c * d) continue;
      sum.delete(t);
      sum.delete(quotient);
      sum.set(x, (sum.get(x) ?? 0) + c);
      again = true;
    }
  }
}

/** The largest value that an index expression can take; Infinity if it is not known. */
export function maxOf(e: Expr): number {
  switch (e.k) {
    case 'const':
      return e.value;
    case 'var':
      return e.max;
    case 'linear':
      return e.terms.reduce((m, [c, t]) => m + c * (c > 0 ? maxOf(t) : minOf(t)), e.constant);
    case 'op':
      if (e.op === 'mod' && e.args[1].k === 'const') return e.args[1].value - 1;
      if (e.op === 'div' && e.args[1].k === 'const') return Math.floor(maxOf(e.args[0]) / e.args[1].value);
      if (e.op === 'select') return Math.max(maxOf(e.args[1]), maxOf(e.args[2]));
      if (e.op === 'min') return Math.min(maxOf(e.args[0]), maxOf(e.args[1]));
      return Infinity;
    default:
      return Infinity;
  }
}

/** The smallest value that an index expression can take; `opaque` stands for values that are only known at run time. */
export function minOf(e: Expr, opaque = -Infinity): number {
  switch (e.k) {
    case 'const':
      return e.value;
    case 'var':
      return 0;
    case 'linear':
      return e.terms.reduce((m, [c, t]) => m + c * (c < 0 ? maxOf(t) : minOf(t, opaque)), e.constant);
    case 'op':
      if (e.op === 'mod' || e.op === 'div') return 0;
      if (e.op === 'min' || e.op === 'select') return Math.min(...e.args.slice(-2).map((x) => minOf(x, opaque)));
      return opaque;
    default:
      return opaque;
  }
}

/** The direct sub-expressions. */
export function children(e: Expr): readonly Expr[] {
  switch (e.k) {
    case 'load':
      return [e.index];
    case 'linear':
      return e.terms.map(([, t]) => t);
    case 'op':
      return e.args;
    case 'reduce':
      return [e.extent, e.body];
    case 'local':
      return e.index ? [e.index] : [];
    default:
      return [];
  }
}

/** All expressions below `roots`, each once, operands first. */
export function postorder(roots: readonly Expr[]): Expr[] {
  const seen = new Set<Expr>(),
    order: Expr[] = [];
  const visit = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    children(e).forEach(visit);
    order.push(e);
  };
  roots.forEach(visit);
  return order;
}
