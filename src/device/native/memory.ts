// The native device's memory, and the host's access to it. Small blocks (inputs, outputs) get an ArrayBuffer view, so
// that reading and writing them is no foreign call; the only foreign call of a training step is its run. Large blocks
// are copied by the driver, because the garbage collector would count views of them as its own memory.
import type { TypedArray } from '../../base/dtype.ts';
import { UserError } from '../../base/errors.ts';
import type { Memory, Place } from '../device.ts';
import type { Driver } from './driver.ts';

const VIEW_LIMIT = 16 << 20; // bytes of the largest block that gets a view

class Block implements Memory {
  readonly bytes: number;
  /** 0 after it was freed. */
  address: number;
  view: Uint8Array | null = null;
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
    block.view = null;
    this.#driver.free(address, bytes);
  }

  /** The address of a place. */
  addressOf({ memory, offset }: Place): number {
    return blockOf(memory).address + offset;
  }

  write(place: Place, data: TypedArray | BigInt64Array): void {
    const bytes = data.byteLength;
    if (bytes === 0) return;
    const seen = this.#view(place, bytes);
    if (seen) seen.set(bytesOf(data));
    else this.#driver.copyIn(this.addressOf(place), data, bytes);
  }

  read(place: Place, into: TypedArray | BigInt64Array): void {
    const bytes = into.byteLength;
    if (bytes === 0) return;
    const seen = this.#view(place, bytes);
    if (seen) bytesOf(into).set(seen);
    else this.#driver.copyOut(into, this.addressOf(place), bytes);
  }

  /** A view of the bytes; null in a large block. */
  #view({ memory, offset }: Place, length: number): Uint8Array | null {
    const block = blockOf(memory);
    if (offset < 0 || offset + length > block.bytes)
      throw new Error(`${length} bytes at ${offset} lie outside a block of ${block.bytes} bytes`);
    if (block.bytes > VIEW_LIMIT) return null;
    block.view ??= new Uint8Array(this.#driver.view(block.address, block.bytes));
    return block.view.subarray(offset, offset + length);
  }
}

function blockOf(memory: Memory): Block {
  if (memory instanceof Block && memory.address !== 0) return memory;
  throw new Error('this memory was freed, or is not of the native device');
}

const bytesOf = (data: TypedArray | BigInt64Array): Uint8Array =>
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
