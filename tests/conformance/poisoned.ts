// A device whose new memory is full of NaN: if a kernel reads memory that nothing has written, NaN appears in its
// result.
import type { Memory } from '../../src/device/device.ts';
import { WrappedDevice } from '../support/wrapped-device.ts';

/**
 * 64 bits that are NaN as float64. The upper 32 bits are NaN as float32 and -1 as int32; the lower ones are NaN as
 * float32 and the largest int32, which is no valid index.
 */
const POISON = 0xffffffff_7fffffffn;

/**
 * Wraps a device that several executors use one after the other. close() frees only what was allocated through this
 * wrapper.
 */
export class PoisonedDevice extends WrappedDevice {
  readonly #open = new Set<Memory>();

  override alloc(bytes: number): Memory {
    const memory = this.device.alloc(bytes);
    this.device.write(
      { memory, offset: 0 },
      new Uint32Array(
        new BigUint64Array(Math.ceil(memory.bytes / 8)).fill(POISON).buffer,
        0,
        Math.floor(memory.bytes / 4),
      ),
    );
    this.#open.add(memory);
    return memory;
  }

  override free(memory: Memory): void {
    this.#open.delete(memory);
    this.device.free(memory);
  }

  override close(): Promise<void> {
    for (const memory of [...this.#open]) this.free(memory);
    return Promise.resolve();
  }
}
