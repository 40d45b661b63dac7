// The native device's memory, and the host's access to it. Small blocks (inputs, outputs) get an ArrayBuffer view, so
// that reading and writing them is no foreign call; the only foreign call of a training step is its run. Large blocks
// are copied by the driver, because the garbage collector would count views of them as its own memory.
import type { TypedArray } from '../../base/dtype.ts';
import { UserError } from '../../base/errors.ts';
import type { Memory, Place } from '../device.ts';
import type { Driver } from './driver.ts';

const VIEW_LIMIT = 16 << 20; // bytes of the largest block that gets a view

type HostArray = TypedArray | BigInt64Array;
type ArrayKind = new (buffer: ArrayBuffer, offset: number, length: number) => HostArray;

class Block implements Memory {
  readonly bytes: number;
  /** 0 after it was freed. */
  address: number;
  buffer: ArrayBuffer | null = null;
  /** Views of the whole buffer, by the kind of their elements. */
  readonly views = new Map<ArrayKind, HostArray>();
  readonly #of: NativeMemory;
  constructor(of: NativeMemory, address: number, bytes: number) {
    this.#of = of;
    this.address = address;
    this.bytes = bytes;
  }

  peek(offset: number, into: TypedArray): void {
    this.#of.read({ memory: this, offset }, into);
  }
}

export class NativeMemory {
  readonly #driver: Driver;

  constructor(driver: Driver) {
    this.#driver = driver;
  }

  alloc(bytes: number): Memory {
    const size = Math.max(bytes, 256),
      address = this.#driver.alloc(size);
    if (address === 0)
      throw new UserError(`out of memory: ${size} bytes could not be allocated`, 'a smaller model or batch');
    return new Block(this, address, size);
  }

  free(memory: Memory): void {
    const block = blockOf(memory),
      { address, bytes } = block;
    block.address = 0;
    block.buffer = null;
    block.views.clear();
    this.#driver.free(address, bytes);
  }

  /** The address of a place. */
  addressOf({ memory, offset }: Place): number {
    return blockOf(memory).address + offset;
  }

  write(place: Place, data: HostArray): void {
    const bytes = data.byteLength;
    if (bytes === 0) return;
    const seen = this.#view(place, data);
    if (seen) (seen as Uint8Array).set(data as Uint8Array);
    else this.#driver.copyIn(this.addressOf(place), data, bytes);
  }

  read(place: Place, into: HostArray): void {
    const bytes = into.byteLength;
    if (bytes === 0) return;
    const seen = this.#view(place, into);
    if (seen) (into as Uint8Array).set(seen as Uint8Array);
    else this.#driver.copyOut(into, this.addressOf(place), bytes);
  }

  /**
   * A view of a place, with the length and the kind of `like`; null in a large block, or where an element does not lie
   * at a multiple of its size. (`like.buffer` is not used: it would move a short array out of the engine's heap.)
   */
  #view({ memory, offset }: Place, like: HostArray): HostArray | null {
    const block = blockOf(memory),
      { byteLength, BYTES_PER_ELEMENT: size } = like,
      kind = like.constructor as ArrayKind;
    if (offset < 0 || offset + byteLength > block.bytes)
      throw new Error(`${byteLength} bytes at ${offset} lie outside a block of ${block.bytes} bytes`);
    if (block.bytes > VIEW_LIMIT || offset % size !== 0) return null;
    let all = block.views.get(kind);
    if (!all) {
      block.buffer ??= this.#driver.view(block.address, block.bytes);
      all = new kind(block.buffer, 0, Math.floor(block.bytes / size));
      block.views.set(kind, all);
    }
    return all.subarray(offset / size, offset / size + like.length);
  }
}

function blockOf(memory: Memory): Block {
  if (memory instanceof Block && memory.address !== 0) return memory;
  throw new Error('this memory was freed, or is not of the native device');
}
