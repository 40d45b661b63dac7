// Reductions as C-like text, in the order of docs/architecture/lowering.md: 16 partial results in chunks of 4096;
// element j of a chunk goes to partial result j mod 16. Partial results are joined 8, 4, 2, 1; chunks in order. The
// order depends on the range alone.
import { leastOf } from '../../base/dtype.ts';
import type { Expr } from '../../kernel/expr.ts';
import type { ReduceTarget } from '../../kernel/kernel.ts';
import { invariants } from '../../kernel/rewrite.ts';
import type { CpuReduce } from '../../schedule/cpu-kernel.ts';
import type { Dialect } from './dialect.ts';
import { ExprWriter } from './expr.ts';
import { block, loop } from './text.ts';

type Names = ReadonlyMap<Expr, string>;

const LANES = 16,
  CHUNK = 4096;

export function writeReduce(d: Dialect, s: CpuReduce, names: Names): string[] {
  const r = new ReduceWriter(d, s);
  return s.extent.k === 'const' && s.extent.value < LANES ? r.few(s.extent.value, names) : r.chunks(names);
}

class ReduceWriter {
  readonly #d: Dialect;
  readonly #s: CpuReduce;

  constructor(d: Dialect, s: CpuReduce) {
    this.#d = d;
    this.#s = s;
  }

  #start({ op, value: { dtype } }: ReduceTarget): string {
    return this.#d.literal(op === 'sum' ? 0 : leastOf(dtype), dtype);
  }

  /** The sum, or the larger of the two: NaN if either is NaN. */
  #joined(t: ReduceTarget, into: string, x: string): string {
    return t.op === 'sum' ? `${into} + ${x}` : this.#d.select(`(${x} > ${into}) | (${x} != ${x})`, x, into);
  }

  #each(write: (t: ReduceTarget, i: number) => string): string[] {
    return this.#s.targets.map(write);
  }

  /** Joins the values of one element, whose index has its value, to partial results. */
  #add(
    into: (i: number) => string,
    names: Names,
    values: readonly Expr[] = this.#s.targets.map((t) => t.value),
  ): string[] {
    const w = new ExprWriter(this.#d, names);
    const done = this.#each((t, i) => `${into(i)} = ${this.#joined(t, into(i), w.value(values[i]))};`);
    return [...w.lines, ...done];
  }

  #lanes(count: number): string[] {
    return [
      ...this.#each((t, i) => this.#d.array(t.value.dtype, `lane${i}`, count)),
      ...this.#lane(
        `${count}`,
        this.#each((t, i) => `lane${i}[l] = ${this.#start(t)};`),
      ),
    ];
  }

  #lane(count: string, body: readonly string[], vector = false): string[] {
    return [...(vector ? this.#d.hints.vector : []), ...loop(this.#d, 'int32', 'l', count, body)];
  }

  /** Joins the partial results from l + width on to those from l on, for l < count. */
  #fold(count: number, width: number, vector: boolean): string[] {
    const lines = this.#each((t, i) => `lane${i}[l] = ${this.#joined(t, `lane${i}[l]`, `lane${i}[l + ${width}]`)};`);
    return this.#lane(`${count}`, lines, vector);
  }

  /** With fewer elements than partial results, the other partial results would add nothing. */
  few(count: number, names: Names): string[] {
    const tree: string[] = [];
    for (let width = LANES / 2, left = count; width >= 1; width /= 2) {
      if (left > width) tree.push(...this.#fold(left - width, width, false));
      left = Math.min(left, width);
    }
    const element = [this.#d.constant('index', this.#s.index.name, 'l'), ...this.#add((i) => `lane${i}[l]`, names)];
    return block('', [
      ...this.#lanes(Math.max(count, 1)),
      ...this.#lane(`${count}`, element, true),
      ...tree,
      ...this.#each((t, i) => `t${t.local} = ${this.#joined(t, this.#start(t), `lane${i}[0]`)};`),
    ]);
  }

  chunks(names: Names): string[] {
    const d = this.#d,
      { extent, blocks } = this.#s,
      head = new ExprWriter(d, names),
      end = head.value(extent);
    const index = d.constant('index', this.#s.index.name, 'from + at + l');
    // A whole block of 16: computes what is the same for all its elements once, then the elements.
    const ofBlock = new Map(names),
      outside = new ExprWriter(d, names);
    if (blocks) for (const v of invariants(blocks.values, new Set([this.#s.index]))) ofBlock.set(v, outside.value(v));
    const whole = [
      ...(blocks
        ? [...d.hints.outer, d.constant('index', blocks.index.name, `(from + at) / ${LANES}`), ...outside.lines]
        : []),
      ...this.#lane(`${LANES}`, [index, ...this.#add((i) => `lane${i}[l]`, ofBlock, blocks?.values)], true),
    ];
    // The elements after the last whole block: all 16 partial results are stored, and those without an element keep
    // their value.
    const rest = [
      ...this.#each((t, i) => d.variable(t.value.dtype, `next${i}`, `lane${i}[l]`)),
      ...block('if (l < size - at) ', [index, ...this.#add((i) => `next${i}`, names)]),
      ...this.#each((_, i) => `lane${i}[l] = next${i};`),
    ];
    const chunk = [
      d.constant('index', 'size', d.select(`end - from < ${CHUNK}`, 'end - from', d.literal(CHUNK, 'index'))),
      ...this.#lanes(LANES),
      d.variable('index', 'at', '0'),
      ...block(`for (; at + ${LANES} <= size; at += ${LANES}) `, whole),
      ...block('if (at < size) ', this.#lane(`${LANES}`, rest, true)),
      ...[8, 4, 2, 1].flatMap((width) => this.#fold(width, width, width > 2)),
      ...this.#each((t, i) => `t${t.local} = ${this.#joined(t, `t${t.local}`, `lane${i}[0]`)};`),
    ];
    return block('', [
      ...head.lines,
      d.constant('index', 'end', end),
      ...this.#each((t) => `t${t.local} = ${this.#start(t)};`),
      ...loop(d, 'index', 'from', 'end', chunk, { step: CHUNK }),
    ]);
  }
}
