// A device whose new memory is full of NaN: if a kernel reads memory that nothing has written, NaN appears in its
// result.
import type { TypedArray } from '../../src/base/dtype.ts';
import type {
  Bound,
  BoundStep,
  Device,
  DeviceInfo,
  Draw,
  KernelSource,
  Memory,
  StepTimes,
} from '../../src/device/device.ts';

/**
 * 64 bits that are NaN as float64. The upper 32 bits are NaN as float32 and -1 as int32; the lower ones are NaN as
 * float32 and the largest int32, which is no valid index.
 */
const POISON = 0xffffffff_7fffffffn;

/**
 * Wraps a device that several executors use one after the other. close() frees only what was allocated through this
 * wrapper.
 */
export class PoisonedDevice implements Device {
  readonly #device: Device;
  readonly #open = new Set<Memory>();

  constructor(device: Device) {
    this.#device = device;
  }

  get info(): DeviceInfo {
    return this.#device.info;
  }

  alloc(bytes: number): Memory {
    const memory = this.#device.alloc(bytes);
    this.#device.write(
      memory.address,
      new Uint32Array(
        new BigUint64Array(Math.ceil(memory.bytes / 8)).fill(POISON).buffer,
        0,
        Math.floor(memory.bytes / 4),
      ),
    );
    this.#open.add(memory);
    return memory;
  }

  free(memory: Memory): void {
    this.#open.delete(memory);
    this.#device.free(memory);
  }

  write(address: number, data: TypedArray): void {
    this.#device.write(address, data);
  }
  read(address: number, into: TypedArray): void {
    this.#device.read(address, into);
  }
  draw(draws: readonly Draw[]): Promise<void> {
    return this.#device.draw(draws);
  }
  compile(kernels: readonly KernelSource[]): Promise<void> {
    return this.#device.compile(kernels);
  }
  bind(steps: readonly BoundStep[]): Bound {
    return this.#device.bind(steps);
  }
  run(bound: Bound, from?: number, to?: number): Promise<void> {
    return this.#device.run(bound, from, to);
  }
  profile(bound: Bound): Promise<StepTimes> {
    return this.#device.profile(bound);
  }
  release(bound: Bound): void {
    this.#device.release(bound);
  }
  close(): void {
    for (const memory of [...this.#open]) this.free(memory);
  }
}
