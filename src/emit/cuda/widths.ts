// Which index values of a kernel fit into 32 bits: a GPU adds and multiplies those at several times the speed of 64
// bits, and divides them at ten times. What the values of a kernel's index variables can be is computed from all that
// they are set to.
import type { Expr, OpExpr, Scalar } from '../../kernel/expr.ts';
import type { SetStmt } from '../../kernel/kernel.ts';
import type { GpuKernel, GpuStmt } from '../../schedule/gpu-kernel.ts';

/** The smallest and the largest value. */
type Range = readonly [least: number, most: number];

const ANY: Range = [-Infinity, Infinity],
  INT32: Range = [-(2 ** 31), 2 ** 31 - 1],
  /** Of a loop's variable: the last step goes beyond the end of the loop. */
  MOST_OF_VAR = 2 ** 30,
  /** Of what a cast gives; floats are clamped to int32. */
  RANGES: Partial<Record<Scalar, Range>> = { bool: [0, 1], uint32: [0, 2 ** 32 - 1] },
  /** How often ranges are computed again before a variable that still grows counts as unbounded. */
  ROUNDS = 8;

const join = (a: Range | null, b: Range): Range => (a ? [Math.min(a[0], b[0]), Math.max(a[1], b[1])] : b),
  magnitude = ([least, most]: Range): number => Math.max(-least, most);

export class Widths {
  /** Of index variables by number; null: nothing is known to be set yet. */
  readonly #locals: (Range | null)[];
  readonly #memo = new Map<Expr, Range | null>();

  constructor({ locals, body }: Pick<GpuKernel, 'locals' | 'body'>) {
    this.#locals = locals.map((l) => (l.dtype === 'index' ? null : ANY));
    for (let round = 0, grows = true; grows; round++) {
      grows = false;
      this.#memo.clear();
      eachSet(body, ({ local, value }) => {
        if (locals[local].dtype !== 'index') return;
        const before = this.#locals[local],
          set = this.#rangeOf(value);
        if (set === null || (before && join(before, set).every((x, i) => x === before[i]))) return;
        this.#locals[local] = round < ROUNDS ? join(before, set) : ANY;
        grows = true;
      });
    }
    this.#memo.clear();
  }

  /** Whether 32 bits hold an index, and what is added up on the way to it. */
  fits(e: Expr): boolean {
    const range = this.#rangeOf(e);
    if (range === null || range[0] < INT32[0] || range[1] > INT32[1]) return false;
    if (e.k === 'var') return e.max <= MOST_OF_VAR;
    if (e.k !== 'linear') return true;
    const sizes = e.terms.map(([c, t]) => Math.abs(c) * magnitude(this.#rangeOf(t) ?? ANY));
    return sizes.reduce((sum, x) => sum + x, Math.abs(e.constant)) <= INT32[1];
  }

  /** Whether 32 bits hold all that an index variable is set to. */
  holds(local: number): boolean {
    const range = this.#locals[local];
    return range !== null && range[0] >= INT32[0] && range[1] <= INT32[1];
  }

  #rangeOf(e: Expr): Range | null {
    let range = this.#memo.get(e);
    if (range === undefined) this.#memo.set(e, (range = this.#compute(e)));
    return range;
  }

  #compute(e: Expr): Range | null {
    switch (e.k) {
      case 'const':
        return [e.value, e.value];
      case 'var':
        return [0, e.max];
      case 'local':
        return this.#locals[e.local];
      case 'linear': {
        let sum: Range = [e.constant, e.constant];
        for (const [c, t] of e.terms) {
          const term = this.#rangeOf(t);
          if (term === null) return null;
          const [least, most] = c > 0 ? term : [term[1], term[0]];
          sum = [sum[0] + c * least, sum[1] + c * most];
        }
        return sum;
      }
      case 'op':
        return this.#ofOperation(e);
      default:
        return ANY;
    }
  }

  #ofOperation({ op, args }: OpExpr): Range | null {
    if (op === 'cast') return RANGES[args[0].dtype] ?? (args[0].dtype === 'index' ? this.#rangeOf(args[0]) : INT32);
    const [a, b] = args.slice(-2).map((x) => this.#rangeOf(x)),
      by = args.at(-1);
    if (a === null || b === null) return null;
    switch (op) {
      case 'select':
        return join(a, b);
      case 'min':
        return [Math.min(a[0], b[0]), Math.min(a[1], b[1])];
      case 'max':
        return [Math.max(a[0], b[0]), Math.max(a[1], b[1])];
      case 'div':
        if (by?.k !== 'const' || !(by.value > 0)) return ANY;
        return [Math.trunc(a[0] / by.value), Math.trunc(a[1] / by.value)];
      case 'mod':
        if (by?.k !== 'const' || !(by.value > 0)) return ANY;
        return [a[0] < 0 ? 1 - by.value : 0, Math.min(Math.max(a[1], 0), by.value - 1)];
      default:
        return ANY;
    }
  }
}

function eachSet(body: readonly GpuStmt[], found: (s: SetStmt) => void): void {
  for (const s of body)
    if (s.s === 'set') found(s);
    else if (s.s === 'for' || s.s === 'if') eachSet(s.body, found);
}
