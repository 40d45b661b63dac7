// Access of the host to the native device's memory. Small blocks (inputs, outputs) get an ArrayBuffer view, so that
// reading and writing them is no foreign call; the only foreign call of a training step is its run. Large blocks are
// copied by the driver, because the garbage collector would count views of them as its own memory.
import type { TypedArray } from '../../base/dtype.ts';
import { UserError } from '../../base/errors.ts';
import type { Memory } from '../device.ts';
import type { Driver } from './driver.ts';

const VIEW_LIMIT = 16 << 20; // bytes of the largest block that gets a view

interface Block extends Memory {
  view: Uint8Array | null;
}

export class NativeMemory {
  readonly #driver: Driver;
  readonly #blocks: Block[] = []; // sorted by address

  constructor(driver: Driver) {
    this.#driver = driver;
  }

  alloc(bytes: number): Memory {
    const size = Math.max(bytes, 256),
      address = this.#driver.alloc(size);
    if (address === 0)
      throw new UserError(`out of memory: ${size} bytes could not be allocated`, 'a smaller model or batch');
    const block = { bytes: size, address, view: null };
    this.#blocks.splice(this.#position(address), 0, block);
    return block;
  }

  free(memory: Memory): void {
    const at = this.#position(memory.address);
    if (this.#blocks[at]?.address !== memory.address) throw new Error(`no memory at ${memory.address} to free`);
    this.#blocks.splice(at, 1);
    this.#driver.free(memory.address, memory.bytes);
  }

  write(address: number, data: TypedArray): void {
    if (data.byteLength === 0) return;
    const seen = this.#view(address, data.byteLength);
    if (seen) seen.set(bytesOf(data));
    else this.#driver.copyIn(address, data, data.byteLength);
  }

  read(address: number, into: TypedArray): void {
    if (into.byteLength === 0) return;
    const seen = this.#view(address, into.byteLength);
    if (seen) bytesOf(into).set(seen);
    else this.#driver.copyOut(into, address, into.byteLength);
  }

  /** A view of the bytes; null in a large block. */
  #view(address: number, length: number): Uint8Array | null {
    const at = this.#position(address),
      block = this.#blocks[at]?.address === address ? this.#blocks[at] : this.#blocks[at - 1];
    if (!block || address + length > block.address + block.bytes)
      throw new Error(`${length} bytes at ${address} lie outside the device's memory`);
    if (block.bytes > VIEW_LIMIT) return null;
    block.view ??= new Uint8Array(this.#driver.view(block.address, block.bytes));
    return block.view.subarray(address - block.address, address - block.address + length);
  }

  /** Index of the first block at `address` or above. */
  #position(address: number): number {
    let low = 0,
      high = this.#blocks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#blocks[middle].address < address) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

const bytesOf = (data: TypedArray): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
