// A device whose memory the host does not see, whose reads take several turns of the event loop, and whose kernels must
// not write memory that they read through another buffer, as on GPUs. It wraps a CPU device. A read copies the memory
// when it is called; its arrays are full of ones (NaN as floats) until its promise resolves.
import type { TypedArray } from '../../src/base/dtype.ts';
import { onlyKernels, type Bound, type BoundKernel, type BoundStep, type Device } from '../../src/device/device.ts';
import type { KernelSource, Memory, Place, Read } from '../../src/device/device.ts';
import { isNormals, type NormalsSource } from '../../src/device/normals.ts';
import { WrappedDevice } from './wrapped-device.ts';

const MOST_TURNS = 5;

let peeking = false;

/** Calls `look`, which may read states at once also on a delayed device: tests look at values in this way. */
export function peek<T>(look: () => T): T {
  const before = peeking;
  peeking = true;
  try {
    return look();
  } finally {
    peeking = before;
  }
}

class HiddenMemory implements Memory {
  readonly bytes: number;
  readonly real: Memory;
  constructor(real: Memory) {
    this.bytes = real.bytes;
    this.real = real;
  }

  get peek(): Memory['peek'] {
    return peeking ? (offset, into) => this.real.peek?.(offset, into) : undefined;
  }
}

const realPlace = ({ memory, offset }: Place): Place => ({ memory: (memory as HiddenMemory).real, offset });

const samePlace = (a: Place, b: Place): boolean => a.memory === b.memory && a.offset === b.offset;

const turn = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve);
  });

export class DelayedDevice extends WrappedDevice {
  #random: number;
  /** For each kernel, whether it writes each of its buffers. */
  readonly #writes = new Map<string, readonly boolean[]>();
  readonly #reads = new Set<Promise<void>>();

  /** seed: of the numbers of turns that reads take. */
  constructor(device: Device, seed: number) {
    super(device);
    this.#random = seed >>> 0;
  }

  override get target(): Device['target'] {
    const { target } = this.device;
    return { ...target, limits: { ...target.limits, inPlace: false, panels: null } };
  }

  override alloc(bytes: number): Memory {
    return new HiddenMemory(this.device.alloc(bytes));
  }
  override free(memory: Memory): void {
    this.device.free((memory as HiddenMemory).real);
  }
  override write(place: Place, data: TypedArray): void {
    this.device.write(realPlace(place), data);
  }

  override read(reads: readonly Read[]): Promise<void> {
    const staging = reads.map(({ place, into }) => ({ place: realPlace(place), into: into.slice() })),
      copied = this.device.read(staging);
    for (const { into } of reads) new Uint8Array(into.buffer, into.byteOffset, into.byteLength).fill(0xff);
    const done = (async () => {
      await copied;
      for (let left = 1 + this.#next(MOST_TURNS); left > 0; left--) await turn();
      reads.forEach(({ into }, i) => {
        into.set(staging[i].into);
      });
    })();
    this.#reads.add(done);
    return done.finally(() => this.#reads.delete(done));
  }

  /** A random whole number below `limit`. */
  #next(limit: number): number {
    this.#random = (Math.imul(this.#random, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.#random / 2 ** 32) * limit);
  }

  override compile(kernels: readonly (KernelSource | NormalsSource)[]): Promise<void> {
    for (const k of kernels)
      if (!isNormals(k))
        this.#writes.set(
          k.key,
          k.kernel.buffers.map((b) => b.access !== 'read'),
        );
    return this.device.compile(kernels);
  }

  /** Throws if a kernel would write memory that it also uses through another buffer. */
  #refuseInPlace({ kernel, buffers }: BoundKernel): void {
    const writes = this.#writes.get(kernel) ?? [],
      shared = buffers.findIndex((a, i) => writes[i] && buffers.some((b, j) => j !== i && samePlace(a, b)));
    if (shared >= 0) throw new Error(`kernel ${kernel} writes buffer ${shared} in place`);
  }

  override bind(steps: readonly BoundStep[]): Bound {
    const kernels = onlyKernels(steps, this.info.name);
    for (const s of kernels) this.#refuseInPlace(s);
    return this.device.bind(
      kernels.map((s) => ({
        ...s,
        buffers: s.buffers.map(realPlace),
        unless: s.unless && realPlace(s.unless),
        ...(s.runsGroupwiseAfterPrevious && {
          runsGroupwiseAfterPrevious: {
            ...s.runsGroupwiseAfterPrevious,
            offsets: realPlace(s.runsGroupwiseAfterPrevious.offsets),
          },
        }),
      })),
    );
  }

  override async close(): Promise<void> {
    await Promise.allSettled(this.#reads);
    await this.device.close();
  }
}

let seed: number | null = null;

/** From now on, the devices of this process that tests open are delayed ones: those of `compile`, and of `opened`. */
export function delayReads(from: number): void {
  seed = from;
}

/** The device itself, or a delayed one that wraps it, if `delayReads` was called. */
export const opened = (device: Device): Device =>
  seed === null || device instanceof DelayedDevice ? device : new DelayedDevice(device, seed++);
