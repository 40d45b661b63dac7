// A device whose memory the host does not see, and whose reads take several turns of the event loop, as on a GPU. It
// wraps a CPU device. A read copies the memory when it is called; its arrays are full of ones (NaN as floats) until its
// promise resolves.
import type { TypedArray } from '../../src/base/dtype.ts';
import type { Bound, BoundStep, Device, KernelSource, Memory, Place, Read } from '../../src/device/device.ts';
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

const turn = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve);
  });

export interface DelayedOptions {
  /** Refuses steps that write where another of their buffers lies. The planner does not know such devices yet. */
  readonly refuseInPlace?: boolean;
}

export class DelayedDevice extends WrappedDevice {
  readonly #refuseInPlace: boolean;
  readonly #kernels = new Map<string, KernelSource['kernel']>();
  #random: number;
  readonly #reads = new Set<Promise<void>>();

  /** seed: of the numbers of turns that reads take. */
  constructor(device: Device, seed: number, { refuseInPlace = false }: DelayedOptions = {}) {
    super(device);
    this.#refuseInPlace = refuseInPlace;
    this.#random = seed >>> 0;
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
    for (const k of kernels) if (!isNormals(k)) this.#kernels.set(k.key, k.kernel);
    return this.device.compile(kernels);
  }

  #checkInPlace({ kernel, buffers }: BoundStep): void {
    const writes = this.#kernels.get(kernel)?.buffers.map((b) => b.access !== 'read') ?? [];
    buffers.forEach((a, i) => {
      const clash = buffers.some((b, j) => i !== j && writes[i] && a.memory === b.memory && a.offset === b.offset);
      if (clash) throw new Error(`kernel ${kernel} writes in place of another buffer (${i})`);
    });
  }

  override bind(steps: readonly BoundStep[]): Bound {
    if (this.#refuseInPlace) for (const step of steps) this.#checkInPlace(step);
    return this.device.bind(
      steps.map((s) => ({
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
