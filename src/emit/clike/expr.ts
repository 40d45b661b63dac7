// Expressions as C-like text. Every operation becomes one constant of the block it stands in: a shared value is
// computed once, and rounding happens exactly where the kernel language says.
import { VerifyError } from '../../base/errors.ts';
import { postorder, type Expr, type OpExpr, type Scalar, type ScalarOp, type Term } from '../../kernel/expr.ts';
import { definitionOf } from '../../kernel/functions.ts';
import { INFIX } from '../../kernel/print.ts';
import type { Dialect } from './dialect.ts';

/** In C-like text the type decides whether a shift to the right keeps the sign. */
const OPERATORS: Readonly<Record<string, string>> = { ...INFIX, shr: '>>' };

/** The name of an elementary function of float32 in the text. */
export const nameOf = (op: ScalarOp): string => `${op}_float32`;

/**
 * Writes the expressions of one block. `names`: names of expressions that are computed already, in this block or an
 * outer one.
 */
export class ExprWriter {
  readonly lines: string[] = [];
  readonly #dialect: Dialect;
  readonly #names: Map<Expr, string>;

  constructor(dialect: Dialect, outer: ReadonlyMap<Expr, string> = new Map()) {
    this.#dialect = dialect;
    this.#names = new Map(outer);
  }

  /** The text for the value of `e`; adds the statements that compute it to `lines`. */
  value(e: Expr): string {
    for (const x of postorder([e])) {
      if (this.#names.has(x) || !(x.k === 'op' || x.k === 'load')) continue;
      const name = `v${x.id}`;
      this.lines.push(this.#dialect.constant(this.#dialect.typeOf(x), name, this.#text(x)));
      this.#names.set(x, name);
    }
    return this.#ref(e);
  }

  #ref(e: Expr): string {
    return this.#names.get(e) ?? this.#text(e);
  }

  #text(e: Expr): string {
    switch (e.k) {
      case 'var':
        return e.name;
      case 'const':
        return this.#dialect.literal(e.value, this.#dialect.typeOf(e));
      case 'int':
        return `n${e.slot}`;
      case 'load':
        return `b${e.buffer}[${this.#ref(e.index)}]`;
      case 'local':
        return e.index ? `t${e.local}[${this.#ref(e.index)}]` : `t${e.local}`;
      case 'sum':
        return 'sum';
      case 'linear':
        return this.#linear(e.constant, e.terms, this.#dialect.typeOf(e));
      case 'op':
        return this.#op(
          e,
          e.args.map((a) => this.#ref(a)),
        );
      case 'reduce':
        throw new VerifyError('emit', 'a reduction is still inside an expression');
    }
  }

  /** dtype: of the sum. Terms and products of a narrower type might not hold their parts of it. */
  #linear(constant: number, terms: readonly Term[], dtype: Scalar): string {
    const d = this.#dialect,
      number = (n: number): string => d.literal(n, dtype);
    const products = terms.map(([c, t], i) => {
      if (c !== 1) return `${number(c)} * ${this.#ref(t)}`;
      return i === 0 && d.typeOf(t) !== dtype ? d.cast(dtype, d.typeOf(t), this.#ref(t)) : this.#ref(t);
    });
    return `(${[...products, ...(constant ? [number(constant)] : [])].join(' + ')})`;
  }

  #op(e: OpExpr, a: readonly string[]): string {
    const d = this.#dialect,
      own = d.operation(e, a),
      infix = OPERATORS[e.op];
    if (own !== null) return own;
    if (infix !== undefined) return `(${a[0]} ${infix} ${a[1]})`;
    if (definitionOf(e.op, e.dtype)) return `${nameOf(e.op)}(${a[0]})`;
    switch (e.op) {
      case 'cast':
        return d.cast(d.typeOf(e), d.typeOf(e.args[0]), a[0]);
      case 'select':
        return d.select(a[0], a[1], a[2]);
      case 'neg':
        return `(- ${a[0]})`;
      case 'not':
        return `(!${a[0]})`;
      // x - x is 0 for every finite x and NaN for the others
      case 'isfinite':
        return `((${a[0]} - ${a[0]}) == ${d.literal(0, e.args[0].dtype)})`;
      case 'min':
        return d.select(`${a[0]} < ${a[1]}`, a[0], a[1]);
      case 'max':
        return d.select(`${a[0]} > ${a[1]}`, a[0], a[1]);
      default:
        throw new VerifyError('emit', `no text for ${e.op}`);
    }
  }
}
