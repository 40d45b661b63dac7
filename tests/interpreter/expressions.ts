// Expressions as JavaScript text. Every operation becomes a constant of the block it stands in, and is rounded as its
// type says. `m` holds the functions of numbers.ts; `k` is the tracker, to which each access is reported.
import { isFloat } from '../../src/base/dtype.ts';
import { isHalf } from '../../src/base/half.ts';
import { postorder, type Expr, type OpExpr, type Scalar } from '../../src/kernel/expr.ts';
import { definitionOf, ELEMENTARY } from '../../src/kernel/functions.ts';

export interface TextOptions {
  /** Lengths of the kernel's arrays, and which of them threads share. */
  readonly locals: readonly { readonly length: number; readonly shared?: boolean }[];
}

const isFloatType = (dtype: Scalar): boolean => dtype !== 'index' && isFloat(dtype);

export class ExprText {
  readonly lines: string[] = [];
  readonly #options: TextOptions;
  readonly #names: Map<Expr, string>;

  /** `outer`: names of expressions that are computed already. */
  constructor(options: TextOptions, outer: ReadonlyMap<Expr, string> = new Map()) {
    this.#options = options;
    this.#names = new Map(outer);
  }

  /** The text for the value of `e`; adds the statements that compute it to `lines`. */
  value(e: Expr): string {
    for (const x of postorder([e])) {
      if (this.#names.has(x) || !(x.k === 'op' || x.k === 'load' || (x.k === 'local' && x.index))) continue;
      this.lines.push(`const v${x.id} = ${this.#text(x)};`);
      this.#names.set(x, `v${x.id}`);
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
        return literal(e.value, e.dtype);
      case 'int':
        return `n${e.slot}`;
      case 'load':
        return `b${e.buffer}[k.read(B${e.buffer}, ${this.#ref(e.index)})]`;
      case 'local': {
        if (!e.index) return `t${e.local}`;
        return `t${e.local}[${element(this.#options, e.local, this.#ref(e.index), 'read')}]`;
      }
      case 'sum':
        return 'sum';
      case 'linear':
        return `(${[...e.terms.map(([c, t]) => `${c} * ${this.#ref(t)}`), e.constant].join(' + ')})`;
      case 'op':
        return operation(
          e,
          e.args.map((a) => this.#ref(a)),
        );
      case 'reduce':
        throw new Error('a reduction is still inside an expression');
    }
  }
}

/** The checked index of an element of array `local`. */
export function element({ locals }: TextOptions, local: number, index: string, access: 'read' | 'write'): string {
  return locals[local].shared ? `k.${access}(T${local}, ${index})` : `m.within(${index}, ${locals[local].length})`;
}

export function literal(value: number, dtype: Scalar): string {
  if (isHalf(dtype)) return `m.halfOf('${dtype}', ${value})`;
  const exact = dtype === 'float32' ? Math.fround(value) : value;
  return Object.is(exact, -0) ? '-0' : `${exact}`;
}

/** A result in the range of its type. */
function rounded(dtype: Scalar, x: string): string {
  switch (dtype) {
    case 'float32':
      return `Math.fround(${x})`;
    case 'int32':
      return `((${x}) | 0)`;
    case 'uint32':
      return `((${x}) >>> 0)`;
    default:
      return `(${x})`;
  }
}

const COMPARISONS: Readonly<Record<string, string>> = { lt: '<', le: '<=', eq: '===', ne: '!==' };
const BITS: Readonly<Record<string, string>> = { and: '&', or: '|', xor: '^', shl: '<<' };
const PLAIN: Readonly<Record<string, string>> = { add: '+', sub: '-', mod: '%' };

function operation(e: OpExpr, a: readonly string[]): string {
  const of = e.args[0].dtype,
    whole = of === 'int32' || of === 'uint32';
  if (e.op in COMPARISONS) return `(${a[0]} ${COMPARISONS[e.op]} ${a[1]} ? 1 : 0)`;
  if (e.op in BITS) return rounded(of, `${a[0]} ${BITS[e.op]} ${a[1]}`);
  if (e.op in PLAIN) return rounded(of, `${a[0]} ${PLAIN[e.op]} ${a[1]}`);
  if (definitionOf(e.op, of)) return `f.${e.op}(${a[0]})`;
  switch (e.op) {
    case 'mul':
      return rounded(of, whole ? `Math.imul(${a[0]}, ${a[1]})` : `${a[0]} * ${a[1]}`);
    case 'div':
      if (whole) return rounded(of, `${a[1]} === 0 ? 0 : Math.trunc(${a[0]} / ${a[1]})`);
      return of === 'index' ? `Math.trunc(${a[0]} / ${a[1]})` : rounded(of, `${a[0]} / ${a[1]}`);
    case 'shr':
      return of === 'int32' ? `(${a[0]} >> ${a[1]})` : `(${a[0]} >>> ${a[1]})`;
    case 'min':
      return `(${a[0]} < ${a[1]} ? ${a[0]} : ${a[1]})`;
    case 'max':
      return `(${a[0]} > ${a[1]} ? ${a[0]} : ${a[1]})`;
    case 'fma':
      return `m.fma${of === 'float32' ? 32 : 64}(${a.join(', ')})`;
    case 'select':
      return `(${a[0]} ? ${a[1]} : ${a[2]})`;
    case 'neg':
      return rounded(of, `-${a[0]}`);
    case 'abs':
      return rounded(of, `Math.abs(${a[0]})`);
    case 'sqrt':
      return rounded(of, `Math.sqrt(${a[0]})`);
    case 'floor':
      return `Math.floor(${a[0]})`;
    case 'round':
      return `m.nearest(${a[0]})`;
    case 'not':
      return `(${a[0]} ? 0 : 1)`;
    case 'isfinite':
      return `(Number.isFinite(${a[0]}) ? 1 : 0)`;
    case 'bitcast':
      return of === 'float32' ? `m.bitsOf(${a[0]})` : `m.floatOf(${a[0]})`;
    case 'threefry':
      return `m.threefry(${a.join(', ')})[0]`;
    case 'cast':
      return cast(e.dtype, of, a[0]);
    default:
      return `m.math64.${e.op}(${a.join(', ')})`;
  }
}

function cast(to: Scalar, from: Scalar, x: string): string {
  if (from === to) return x;
  if (isHalf(from)) return cast(to, 'float32', `m.ofHalf('${from}', ${x})`);
  if (isHalf(to)) return `m.halfOf('${to}', ${x})`;
  if (to === 'bool') return `(${x} !== 0 ? 1 : 0)`;
  if (isFloatType(from) && !isFloatType(to)) return `m.${to === 'uint32' ? 'toUint32' : 'toInt32'}(${x})`;
  return rounded(to, x);
}

/** The elementary functions of float32: the text of an object with a function for each. */
export function functionsText(): string {
  const functions = ELEMENTARY.map((op) => {
    const definition = definitionOf(op, 'float32');
    if (!definition) throw new Error(`${op} has no definition`);
    const w = new ExprText({ locals: [] }),
      value = w.value(definition.body);
    return `${op}(t0) {\n${w.lines.join('\n')}\nreturn ${value};\n}`;
  });
  return `{ ${functions.join(',\n')} }`;
}
