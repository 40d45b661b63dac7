// The memory of the WebAssembly device: one linear memory, reserved once, from which blocks are allocated first-fit.
import { UserError } from '../../base/errors.ts';
import type { Memory } from '../device.ts';

export const PAGE = 65536;
/** WebAssembly addresses have 32 bits: 4 GiB. */
export const MOST_PAGES = 65536;
const UNIT = 256;

interface Gap {
  address: number;
  bytes: number;
}

export class Heap {
  readonly memory: WebAssembly.Memory;
  readonly pages: number;
  readonly bytes: Uint8Array;
  readonly #gaps: Gap[];
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
  alloc(bytes: number): Memory {
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
    return { address, bytes: size };
  }

  free({ address, bytes }: Memory): void {
    let at = this.#gaps.findIndex((g) => g.address > address);
    if (at < 0) at = this.#gaps.length;
    const before = this.#gaps[at - 1],
      after = this.#gaps[at];
    if ((before && before.address + before.bytes > address) || (after && address + bytes > after.address))
      throw new Error(`no memory at ${address} to free`);
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

  at(address: number, length: number): Uint8Array {
    if (address < PAGE || address + length > this.bytes.length)
      throw new Error(`${length} bytes at ${address} lie outside the device's memory`);
    return this.bytes.subarray(address, address + length);
  }
}
