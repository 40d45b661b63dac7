// Safetensors as bytes, wherever they lie. In: tensors; out: the bytes, in chunks. In: a source of bytes; out: its
// header, and tensors that are read one at a time, when asked for, straight into the memory they are to have.
import { listed } from '../base/words.ts';
import type { TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { aFunction } from '../base/kinds.ts';
import { checkOptions, shown, type KeysOf } from '../base/options.ts';
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

/** A tensor to be written. `data` is called once, when its turn comes; its array may be reused after the next call. */
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

/** Where bytes are read from: a file, memory. `where` names it in errors. */
export interface ByteSource {
  readonly where: string;
  readonly size: number;
  /** Fills `into` with the bytes from `offset` on; rejects with a UserError where they end before. */
  read(offset: number, into: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/** Bytes in memory. They must not change while they are read. */
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
 * Reads the header. Rejects with a UserError that names the source and the offset of what is wrong, and closes the
 * source then.
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
 * Tensors by name. `get` throws a UserError for one that is in the file and cannot be read here; `has` and loops pass
 * it over.
 */
export class TensorMap extends Map<string, HostTensor> {
  /** Why a tensor of the file cannot be read here, by name. */
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
  /** Told in one line which tensors cannot be read; default console.warn. */
  readonly say?: (line: string) => void;
}
const KEYS: KeysOf<ReadOptions> = { say: aFunction };

const kindOf = (value: unknown): string =>
  typeof value === 'object' && value !== null
    ? ((value as { constructor?: { name: string } }).constructor?.name ?? 'an object')
    : shown(value);

/**
 * The tensors of a safetensors file by name, of whatever program wrote it. Types that there are none of here are
 * converted where nothing is lost (I64 to int32, ...); tensors for which that cannot be done are named in one line to
 * `say` (console.warn), and in `unreadable`. Rejects with a UserError that says at which byte the file is not sound.
 */
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
      `${not.size} of ${file.tensors.size} tensors cannot be read: ` +
        `${listed(
          [...not.keys()].map((name) => `${JSON.stringify(name)} (${file.tensors.get(name)?.dtype ?? ''})`),
          3,
        )}`,
    );
  return new TensorMap(read, not);
}

/** Open safetensors: `tensors` lists, `read` reads. Close them. */
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
   * A tensor's value. Types that we do not have are converted where nothing is lost. UserError for a name that is not
   * there.
   */
  async read(name: string): Promise<HostTensor> {
    const entry = this.#entry(name);
    return readData(entry, this.where, (into) => this.#source.read(entry.begin, into));
  }

  /** A tensor's bytes as they are in the file, into memory of exactly their length (row-major, little-endian). */
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
      `${this.where} holds no tensor ${JSON.stringify(name)}`,
      `it holds ${names.length}: ${listed(names, 8)}`,
    );
  }
}
