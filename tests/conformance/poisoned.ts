// A device whose memory is full of NaN when it is handed out: what a kernel reads without having been given it shows in the result.
import type { TypedArray } from '../../src/base/dtype.ts';
import type { Bound, BoundStep, Device, DeviceInfo, Draw, KernelSource, Memory, StepTimes } from '../../src/device/device.ts';

/** NaN as floats of any width; as int32, in turns, -1 and the largest there is: what takes it for an index reads far outside. */
const POISONS = [0xffffffff, 0x7fffffff];

/** A device of which many executors in turn use one: closing it only frees what was allocated through it. */
export class PoisonedDevice implements Device {
  readonly #device: Device;
  readonly #open = new Set<Memory>();
  #allocated = 0;

  constructor(device: Device) { this.#device = device; }

  get info(): DeviceInfo { return this.#device.info; }

  alloc(bytes: number): Memory {
    const memory = this.#device.alloc(bytes);
    this.#device.write(memory.address, new Uint32Array(Math.floor(memory.bytes / 4)).fill(POISONS[this.#allocated++ % 2]));
    this.#open.add(memory);
    return memory;
  }

  free(memory: Memory): void {
    this.#open.delete(memory);
    this.#device.free(memory);
  }

  write(address: number, data: TypedArray): void { this.#device.write(address, data); }
  read(address: number, into: TypedArray): void { this.#device.read(address, into); }
  draw(draws: readonly Draw[]): Promise<void> { return this.#device.draw(draws); }
  compile(kernels: readonly KernelSource[]): Promise<void> { return this.#device.compile(kernels); }
  bind(steps: readonly BoundStep[]): Bound { return this.#device.bind(steps); }
  run(bound: Bound, from?: number, to?: number): Promise<void> { return this.#device.run(bound, from, to); }
  profile(bound: Bound): Promise<StepTimes> { return this.#device.profile(bound); }
  release(bound: Bound): void { this.#device.release(bound); }
  close(): void { for (const memory of [...this.#open]) this.free(memory); }
}
