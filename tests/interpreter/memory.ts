// What the interpreter knows of each element of memory: which threads have written and read it, and when. Time is
// counted in phases: a phase ends at a barrier, and where a block ends. An access is an error if the element is not
// there, or if another thread may access it at the same time, and one of the two writes.
import { bytesPer, type DType, type TypedArray } from '../../src/base/dtype.ts';
import type { Scalar } from '../../src/kernel/expr.ts';

/** For each element of an array or byte of memory: the phase and thread of its last accesses. */
interface Accesses {
  readonly written: Uint32Array;
  readonly writer: Int16Array;
  readonly read: Uint32Array;
  readonly reader: Int16Array;
  /** The first phase of a launch in which threads of several blocks have read it. */
  readonly readByBlocks: Uint32Array;
}
const MANY = -1;

export const accesses = (count: number): Accesses => ({
  written: new Uint32Array(count),
  writer: new Int16Array(count),
  read: new Uint32Array(count),
  reader: new Int16Array(count),
  readByBlocks: new Uint32Array(count),
});

/** An array as a kernel sees it: a buffer, which is a part of device memory, or a shared array of a block. */
export interface Tracked {
  readonly name: string;
  readonly count: number;
  /** Where the accesses of element i are noted: first + i * size. */
  readonly first: number;
  readonly size: number;
  readonly accesses: Accesses;
  /** Elements of a shared array have no value before a thread of the block has written them. */
  readonly shared: boolean;
}

/** The thread that is running, and the phase. */
export class Tracker {
  thread = 0;
  #phase = 1;
  /** The first phase of this launch of a kernel, and of the block that is running. */
  #launch = 1;
  #block = 1;

  beginLaunch(): void {
    this.#launch = this.#block = ++this.#phase;
  }
  beginBlock(): void {
    this.#block = ++this.#phase;
  }
  barrier(): void {
    this.#phase++;
  }

  /**
   * The index of an element that is read, if it may be. Kernels with a dimension of size 0 read buffers without
   * elements, for values that they do not use.
   */
  read(a: Tracked, i: number): number {
    if (a.count === 0) return 0;
    const { written, writer, read, reader, readByBlocks } = a.accesses,
      at = this.#place(a, i, 'reads'),
      start = a.shared ? this.#block : this.#launch,
      when = written[at];
    if (when >= start && (when < this.#block || (when === this.#phase && writer[at] !== this.thread)))
      this.#race(a, i, 'reads', 'writes', when, writer[at]);
    if (a.shared && when < this.#block)
      throw new Error(`thread ${this.thread} reads ${a.name}[${i}], which has no value`);
    const before = read[at];
    if (before === this.#phase) {
      if (reader[at] !== this.thread) reader[at] = MANY;
    } else {
      if (before >= start && before < this.#block) readByBlocks[at] = start;
      read[at] = this.#phase;
      reader[at] = this.thread;
    }
    return i;
  }

  /** The index of an element that is written, if it may be. */
  write(a: Tracked, i: number): number {
    const { written, writer, read, reader, readByBlocks } = a.accesses,
      at = this.#place(a, i, 'writes'),
      start = a.shared ? this.#block : this.#launch,
      when = written[at],
      seen = read[at];
    if (when >= start && (when < this.#block || (when === this.#phase && writer[at] !== this.thread)))
      this.#race(a, i, 'writes', 'writes', when, writer[at]);
    if (readByBlocks[at] === start || (seen >= start && seen < this.#block))
      this.#race(a, i, 'writes', 'reads', 0, MANY);
    if (seen === this.#phase && reader[at] !== this.thread) this.#race(a, i, 'writes', 'reads', seen, reader[at]);
    written[at] = this.#phase;
    writer[at] = this.thread;
    return i;
  }

  #place(a: Tracked, i: number, what: string): number {
    if (!(i >= 0 && i < a.count))
      throw new RangeError(`thread ${this.thread} ${what} ${a.name}[${i}], which has ${a.count} elements`);
    return a.first + i * a.size;
  }

  #race(a: Tracked, i: number, what: string, other: string, when: number, thread: number): never {
    const who = when < this.#block ? 'another block' : thread === MANY ? 'another thread' : `thread ${thread}`;
    throw new Error(`a race: thread ${this.thread} ${what} ${a.name}[${i}], and ${who} ${other} it at the same time`);
  }
}

/** The index of an element of an array that belongs to one thread. */
export function within(i: number, length: number): number {
  if (!(i >= 0 && i < length)) throw new RangeError(`index ${i} of an array of ${length} elements`);
  return i;
}

/** An array of a kernel. Floats are NaN until they are set. */
export function arrayOf(dtype: Scalar, length: number): TypedArray {
  switch (dtype) {
    case 'index':
    case 'float64':
      return new Float64Array(length).fill(NaN);
    case 'float32':
      return new Float32Array(length).fill(NaN);
    default:
      return viewOf(dtype, new ArrayBuffer(length * bytesPer(dtype)), 0, length);
  }
}

export function viewOf(dtype: DType, buffer: ArrayBuffer, offset: number, length: number): TypedArray {
  switch (dtype) {
    case 'float64':
      return new Float64Array(buffer, offset, length);
    case 'float32':
      return new Float32Array(buffer, offset, length);
    case 'bfloat16':
    case 'float16':
      return new Uint16Array(buffer, offset, length);
    case 'int32':
      return new Int32Array(buffer, offset, length);
    case 'uint32':
      return new Uint32Array(buffer, offset, length);
    case 'bool':
      return new Uint8Array(buffer, offset, length);
  }
}
