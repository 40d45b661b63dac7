// Reads and writes safetensors, in files or in memory. Writing: tensors become chunks of bytes. Reading: the header is
// read first; tensors are read one at a time on request, directly into their final memory.
import { listed } from '../base/words.ts';
import { hostArray, type TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { aFunction } from '../base/kinds.ts';
import { checkOptions, shown, type KeysOf } from '../base/options.ts';
import type { Run } from '../base/runs.ts';
import type { HostTensor } from '../base/tensor.ts';
import { checkedBytes, readData } from './safetensors-data.ts';
import {
  encodeHeader,
  fileOrder,
  headerLength,
  parseHeader,
  type Header,
  type TensorEntry,
  type TensorSpec,
} from './safetensors.ts';

/**
 * A tensor to write. `data` is called once, when the tensor's turn comes; its array may be reused after the next call.
 */
export interface TensorSource extends TensorSpec {
  readonly data: () => TypedArray | Promise<TypedArray>;
}

/** The bytes of a safetensors file: the header, then one tensor at a time. */
export async function* encodeSafetensors(
  tensors: readonly TensorSource[],
  metadata: Readonly<Record<string, string>> = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const ordered = fileOrder(tensors);
  yield encodeHeader(ordered, metadata);
  for (const tensor of ordered) yield checkedBytes(tensor, await tensor.data());
}

/** A source of bytes, such as a file or memory. where: its name in errors. */
export interface ByteSource {
  readonly where: string;
  readonly size: number;
  /** Fills `into` with the bytes from `offset` on. Rejects with a UserError if there are too few. */
  read(offset: number, into: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/** Bytes in memory, which must not change while they are read. */
export const bytesSource = (bytes: Uint8Array, where: string): ByteSource => ({
  where,
  size: bytes.length,
  read: (offset, into) => {
    into.set(bytes.subarray(offset, offset + into.length));
    return Promise.resolve();
  },
  close: () => Promise.resolve(),
});

/**
 * Reads the header. If it is not valid, closes the source and rejects with a UserError that names the source and the
 * offset.
 */
export async function openSource(source: ByteSource): Promise<Safetensors> {
  const { size, where } = source;
  try {
    const first = new Uint8Array(Math.min(8, size));
    await source.read(0, first);
    const json = new Uint8Array(headerLength(first, size, where));
    await source.read(8, json);
    return new Safetensors(source, parseHeader(json, size, where));
  } catch (error) {
    await source.close();
    throw error;
  }
}

/**
 * Tensors by name. `get` throws a UserError for a tensor of the file that cannot be read; `has` and iteration skip
 * such tensors.
 */
export class TensorMap extends Map<string, HostTensor> {
  /** By name, the errors of tensors that cannot be read. */
  readonly unreadable: ReadonlyMap<string, Error>;
  constructor(tensors: Iterable<readonly [string, HostTensor]>, unreadable: ReadonlyMap<string, Error>) {
    super(tensors);
    this.unreadable = unreadable;
  }

  override get(name: string): HostTensor | undefined {
    const why = this.unreadable.get(name);
    if (why) throw why;
    return super.get(name);
  }
}

export interface ReadOptions {
  /** Receives one line that names the tensors that cannot be read; default console.warn. */
  readonly say?: (line: string) => void;
}
const KEYS: KeysOf<ReadOptions> = { say: aFunction };

const kindOf = (value: unknown): string =>
  typeof value === 'object' && value !== null
    ? ((value as { constructor?: { name: string } }).constructor?.name ?? 'an object')
    : shown(value);

/** `readSafetensors` of session/later.ts. */
export async function readSafetensors(bytes: Uint8Array, options: ReadOptions = {}): Promise<TensorMap> {
  checkOptions('readSafetensors', options, KEYS);
  const { say = console.warn } = options,
    given: unknown = bytes;
  if (!(given instanceof Uint8Array))
    throw new UserError(
      `readSafetensors takes the bytes of a file, a Uint8Array, got ${kindOf(given)}`,
      'new Uint8Array(buffer) of an ArrayBuffer',
    );
  const file = await openSource(bytesSource(bytes, 'the file')),
    read: [string, HostTensor][] = [],
    not = new Map<string, Error>();
  for (const name of file.tensors.keys()) {
    try {
      read.push([name, await file.read(name)]);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      not.set(name, error);
    }
  }
  if (not.size > 0)
    say(
      `${not.size} of ${file.tensors.size} tensors cannot be read: ${listed(
        [...not.keys()].map((name) => `${JSON.stringify(name)} (${file.tensors.get(name)?.dtype ?? ''})`),
        3,
      )}`,
    );
  return new TensorMap(read, not);
}

/** An open safetensors source: `tensors` lists the tensors, `read` reads one. Close it after use. */
export class Safetensors {
  readonly where: string;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: ReadonlyMap<string, string>;
  readonly #source: ByteSource;

  constructor(source: ByteSource, header: Header) {
    this.where = source.where;
    this.tensors = header.tensors;
    this.metadata = header.metadata;
    this.#source = source;
  }

  /**
   * Reads a tensor. Types that DynaMoE does not have are converted if no value changes. Throws UserError for a name
   * that is not in the file.
   */
  async read(name: string): Promise<HostTensor> {
    const entry = this.#entry(name);
    return readData(entry, this.where, (into) => this.#source.read(entry.begin, into));
  }

  /** The same for some elements of a tensor, in the order of the runs. The shape is that of the whole tensor. */
  async readRuns(name: string, runs: readonly Pick<Run, 'from' | 'count'>[]): Promise<HostTensor> {
    const entry = this.#entry(name),
      { begin, end, shape } = entry,
      each =
        (end - begin) /
        Math.max(
          1,
          shape.reduce((n, d) => n * d, 1),
        );
    const parts: HostTensor[] = [];
    for (const { from, count } of runs) {
      const part = { ...entry, begin: begin + from * each, end: begin + (from + count) * each };
      parts.push(await readData(part, this.where, (into) => this.#source.read(part.begin, into)));
    }
    const [first] = parts;
    if (parts.length === 1) return first;
    const data = hostArray(
      first.dtype,
      parts.reduce((n, part) => n + part.data.length, 0),
    );
    let at = 0;
    for (const part of parts) {
      data.set(part.data, at);
      at += part.data.length;
    }
    return { dtype: first.dtype, shape, data };
  }

  /** Reads a tensor's bytes unchanged (row-major, little-endian) into memory of exactly their length. */
  async readInto(name: string, into: Uint8Array): Promise<void> {
    const { begin, end, dtype, shape } = this.#entry(name);
    if (into.byteLength !== end - begin) {
      const type = `${dtype} [${shape.join(', ')}]`;
      throw new Error(`${this.where}: tensor ${name}, ${type}, has ${end - begin} bytes, asked for ${into.byteLength}`);
    }
    await this.#source.read(begin, into);
  }

  close(): Promise<void> {
    return this.#source.close();
  }

  #entry(name: string): TensorEntry {
    const entry = this.tensors.get(name);
    if (entry !== undefined) return entry;
    const names = [...this.tensors.keys()];
    throw new UserError(
      `${this.where} contains no tensor ${JSON.stringify(name)}`,
      `it contains ${names.length}: ${listed(names, 8)}`,
    );
  }
}
