// Safetensors files on disk. In: a path; out: a file whose header is read and whose tensors are read one at a time, when asked
// for, straight into the memory they are to have. Writing streams: one tensor is in memory at a time, and the file is atomic.
import { open, type FileHandle } from 'node:fs/promises';
import type { TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import type { HostTensor } from '../base/tensor.ts';
import { writeAtomic } from './atomic.ts';
import { fault } from './fault.ts';
import { checkedBytes, readData } from './safetensors-data.ts';
import {
  broken, encodeHeader, fileOrder, headerLength, parseHeader, type Header, type TensorEntry, type TensorSpec,
} from './safetensors.ts';

/** A tensor to be written. `data` is called once, when its turn comes; its array may be reused after the next call. */
export interface TensorSource extends TensorSpec {
  readonly data: () => TypedArray | Promise<TypedArray>;
}

/** Writes a safetensors file whole or not at all. The values must not change until the promise is fulfilled. */
export async function writeSafetensors(
  path: string, tensors: readonly TensorSource[], metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const ordered = fileOrder(tensors);
  const header = encodeHeader(ordered, metadata);
  await writeAtomic(path, (async function* () {
    yield header;
    for (const tensor of ordered) yield checkedBytes(tensor, await tensor.data());
  })());
}

/** Opens a file and reads its header. Rejects with a UserError that names the file and the offset of what is wrong. */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const file = await open(path, 'r').catch((error: unknown) => { throw fault('read', path, error); });
  try {
    const { size } = await file.stat();
    const first = new Uint8Array(Math.min(8, size));
    await readAt(file, path, 0, first);
    const json = new Uint8Array(headerLength(first, size, path));
    await readAt(file, path, 8, json);
    return new SafetensorsFile(path, file, parseHeader(json, size, path));
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** An open safetensors file. It stays what it was when opened, even if the path is replaced. Close it. */
export class SafetensorsFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: ReadonlyMap<string, string>;
  readonly #file: FileHandle;

  constructor(path: string, file: FileHandle, header: Header) {
    this.path = path;
    this.tensors = header.tensors;
    this.metadata = header.metadata;
    this.#file = file;
  }

  /** A tensor's value. Types that we do not have are converted where nothing is lost. UserError for a name that is not there. */
  async read(name: string): Promise<HostTensor> {
    const entry = this.#entry(name);
    return readData(entry, this.path, (into) => readAt(this.#file, this.path, entry.begin, into));
  }

  /** A tensor's bytes as they are in the file, into memory of exactly their length (row-major, little-endian). */
  async readInto(name: string, into: Uint8Array): Promise<void> {
    const { begin, end, dtype, shape } = this.#entry(name);
    if (into.byteLength !== end - begin) {
      const type = `${dtype} [${shape.join(', ')}]`;
      throw new Error(`${this.path}: tensor ${name}, ${type}, has ${end - begin} bytes, asked for ${into.byteLength}`);
    }
    await readAt(this.#file, this.path, begin, into);
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  #entry(name: string): TensorEntry {
    const entry = this.tensors.get(name);
    if (entry !== undefined) return entry;
    const names = [...this.tensors.keys()];
    throw new UserError(`${this.path} holds no tensor ${JSON.stringify(name)}`,
      `it holds ${names.length}: ${names.slice(0, 8).join(', ')}${names.length > 8 ? ', ...' : ''}`);
  }
}

const SLICE = 256 * 1024 * 1024; // a single read(2) gives at most 2 GiB

async function readAt(file: FileHandle, path: string, offset: number, into: Uint8Array): Promise<void> {
  for (let done = 0; done < into.byteLength;) {
    const part = await file.read(into, done, Math.min(SLICE, into.byteLength - done), offset + done)
      .catch((error: unknown) => { throw fault('read', path, error); });
    if (part.bytesRead === 0) throw broken(path, offset + done, `${into.byteLength - done} more bytes, the file ends`);
    done += part.bytesRead;
  }
}
