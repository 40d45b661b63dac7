// The memory of the WebAssembly device: one linear memory, reserved once, from which blocks are allocated first-fit.
import { UserError } from '../../base/errors.ts';
import type { TypedArray } from '../../base/dtype.ts';
import type { Memory, Place } from '../device.ts';

export const PAGE = 65536;
/** WebAssembly addresses have 32 bits: 4 GiB. */
export const MOST_PAGES = 65536;
const UNIT = 256;

interface Gap {
  address: number;
  bytes: number;
}

export interface Block extends Memory {
  readonly address: number;
}

export class Heap {
  readonly memory: WebAssembly.Memory;
  readonly pages: number;
  readonly bytes: Uint8Array;
  readonly #gaps: Gap[];
  readonly #blocks = new Set<Memory>();
  /** Memory from this address on was never written, so it is still zero. */
  #touched: number;

  /**
   * Reserves `pages` of 64 KiB, or fewer if the system refuses. shared: for use by several threads. fresh: called with
   * the memory before anything is written.
   */
  constructor(pages: number, shared: boolean, fresh?: (memory: Uint8Array) => void) {
    let memory: WebAssembly.Memory | null = null,
      size = Math.min(MOST_PAGES, Math.max(64, pages));
    while (memory === null) {
      try {
        memory = new WebAssembly.Memory({ initial: size, maximum: size, shared });
      } catch (error) {
        if (size <= 64) throw new UserError(`no memory for the wasm device: ${String(error)}`);
        size = Math.max(64, Math.floor(size / 2));
      }
    }
    this.memory = memory;
    this.pages = size;
    this.bytes = new Uint8Array(memory.buffer);
    fresh?.(this.bytes);
    // The first page is never allocated, so that small wrong addresses are noticed.
    this.#gaps = [{ address: PAGE, bytes: (size - 1) * PAGE }];
    this.#touched = PAGE;
  }

  /** Zeroed memory at a multiple of 256 bytes. Throws UserError if there is too little. */
  alloc(bytes: number): Block {
    const size = Math.max(UNIT, Math.ceil(bytes / UNIT) * UNIT),
      at = this.#gaps.findIndex((g) => g.bytes >= size);
    if (at < 0) {
      const all = this.pages * PAGE;
      throw new UserError(
        `out of memory: ${size} bytes could not be allocated; the wasm device has ${all} bytes in ` +
          `all${this.pages === MOST_PAGES ? ' (4 GiB, which is all that its 32-bit addresses reach)' : ''}`,
        'a smaller model or batch, sgd instead of adam, or --device native',
      );
    }
    const gap = this.#gaps[at],
      address = gap.address;
    gap.address += size;
    gap.bytes -= size;
    if (gap.bytes === 0) this.#gaps.splice(at, 1);
    if (address < this.#touched) this.bytes.fill(0, address, Math.min(address + size, this.#touched));
    this.#touched = Math.max(this.#touched, address + size);
    const block: Block = {
      address,
      bytes: size,
      peek: (offset, into) => {
        this.read({ memory: block, offset }, into);
      },
    };
    this.#blocks.add(block);
    return block;
  }

  free(memory: Memory): void {
    const { address, bytes } = this.#blockOf(memory);
    this.#blocks.delete(memory);
    let at = this.#gaps.findIndex((g) => g.address > address);
    if (at < 0) at = this.#gaps.length;
    this.#gaps.splice(at, 0, { address, bytes });
    for (const i of [at, at - 1]) {
      const [a, b] = [this.#gaps[i], this.#gaps[i + 1]];
      if (!a || !b || a.address + a.bytes !== b.address) continue;
      a.bytes += b.bytes;
      this.#gaps.splice(i + 1, 1);
    }
  }

  /** Free bytes. */
  get left(): number {
    return this.#gaps.reduce((n, g) => n + g.bytes, 0);
  }

  addressOf({ memory, offset }: Place): number {
    return this.#blockOf(memory).address + offset;
  }

  write(place: Place, data: TypedArray): void {
    this.#at(place, data.byteLength).set(bytesOf(data));
  }
  read(place: Place, into: TypedArray): void {
    bytesOf(into).set(this.#at(place, into.byteLength));
  }

  #at(place: Place, length: number): Uint8Array {
    const address = this.addressOf(place),
      { memory, offset } = place;
    if (offset < 0 || offset + length > memory.bytes)
      throw new Error(`${length} bytes at ${offset} lie outside a block of ${memory.bytes} bytes`);
    return this.bytes.subarray(address, address + length);
  }

  #blockOf(memory: Memory): Block {
    if (this.#blocks.has(memory)) return memory as Block;
    throw new Error('this memory was freed, or is not of this wasm device');
  }
}

const bytesOf = (data: TypedArray): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
