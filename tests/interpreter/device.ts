// A device that interprets scheduled kernels, for tests. Each kernel becomes a JavaScript function, with the arithmetic
// of native kernels, bit by bit. It reports accesses outside a buffer, values that are read before they are set, races,
// and threads that do not reach a barrier (memory.ts, gpu.ts).
import { compileFunction } from 'node:vm';
import { bytesPer, DTYPES, type TypedArray } from '../../src/base/dtype.ts';
import { math64 } from '../../src/base/math64.ts';
import { threefry } from '../../src/base/random.ts';
import { onlyKernels, type Bound, type BoundKernel, type BoundStep, type Device } from '../../src/device/device.ts';
import type { KernelSource, Memory, Place, Read, StepTimes } from '../../src/device/device.ts';
import { isNormals, type NormalsSource } from '../../src/device/normals.ts';
import { printScheduled } from '../../src/schedule/print.ts';
import type { Scheduled } from '../../src/schedule/schedule.ts';
import { NATIVE, type Target } from '../../src/schedule/target.ts';
import { cpuText } from './cpu.ts';
import { functionsText } from './expressions.ts';
import { gpuText, launch, type Thread } from './gpu.ts';
import { accesses, arrayOf, Tracker, viewOf, within, type Tracked } from './memory.ts';
import * as numbers from './numbers.ts';

/** Runs a kernel on views of its buffers. */
type Kernel = (b: readonly TypedArray[], B: readonly Tracked[], n: readonly number[]) => void;

interface Compiled {
  readonly kernel: Scheduled;
  readonly run: Kernel;
}

/** What the text of kernels uses as `m`. */
const BASE = { ...numbers, arrayOf, within, math64, threefry };
const functionOf = (text: string, parameters: readonly string[]): ((...values: unknown[]) => unknown) =>
  compileFunction(text, parameters) as (...values: unknown[]) => unknown;
const FUNCTIONS = functionOf(`const f = ${functionsText()}; return f;`, ['m'])(BASE);

class InterpreterMemory implements Memory {
  readonly bytes: number;
  readonly data: ArrayBuffer;
  readonly accesses: Tracked['accesses'];

  constructor(bytes: number) {
    this.bytes = bytes;
    this.data = new ArrayBuffer(bytes);
    this.accesses = accesses(bytes);
  }

  peek(offset: number, into: TypedArray): void {
    bytesOf(into).set(new Uint8Array(this.data, offset, into.byteLength));
  }
}

const bytesOf = (x: TypedArray): Uint8Array => new Uint8Array(x.buffer, x.byteOffset, x.byteLength);

export class Interpreter implements Device {
  readonly target: Target;
  readonly info;
  readonly #tracker = new Tracker();
  readonly #compiled = new Map<string, Compiled>();

  constructor(target: Target = NATIVE) {
    this.target = target;
    this.info = {
      name: 'interpreter',
      threads: 1,
      description: `an interpreter of kernels for a ${target.kind}`,
      exact: DTYPES.filter((d) => d !== 'float64'),
    };
  }

  alloc(bytes: number): Memory {
    return new InterpreterMemory(bytes);
  }
  free(): void {
    // The memory of the host is freed by itself.
  }
  write(place: Place, data: TypedArray): void {
    const { data: own } = memoryOf(place);
    new Uint8Array(own, place.offset, data.byteLength).set(bytesOf(data));
  }
  read(reads: readonly Read[]): Promise<void> {
    for (const { place, into } of reads) memoryOf(place).peek(place.offset, into);
    return Promise.resolve();
  }

  compile(kernels: readonly (KernelSource | NormalsSource)[]): Promise<void> {
    for (const k of kernels) {
      if (isNormals(k)) throw new Error('the interpreter has no kernel of initial values');
      if (!this.#compiled.has(k.key)) this.#compiled.set(k.key, { kernel: k.kernel, run: this.#function(k.kernel) });
    }
    return Promise.resolve();
  }

  #function(kernel: Scheduled): Kernel {
    const tracker = this.#tracker;
    if (kernel.form !== 'threads') {
      const run = functionOf(cpuText(kernel), ['k', 'm', 'f', 'b', 'B', 'n']);
      return (b, B, n) => {
        run(tracker, BASE, FUNCTIONS, b, B, n);
      };
    }
    const start = functionOf(gpuText(kernel), ['k', 'm', 'f'])(tracker, BASE, FUNCTIONS) as Thread;
    return (b, B, n) => {
      launch(kernel, start, tracker, b, B, n);
    };
  }

  bind(steps: readonly BoundStep[]): Bound {
    const runs = onlyKernels(steps, this.info.name).map((step) => this.#bound(step));
    const all = (from: number, to: number, done: (i: number, ms: number) => void): void => {
      for (let i = from; i < to; i++) {
        const start = performance.now();
        runs[i]();
        done(i, performance.now() - start);
      }
    };
    return {
      run: async (from = 0, to = steps.length) => {
        await Promise.resolve();
        all(from, to, () => undefined);
      },
      profile: async (): Promise<StepTimes> => {
        await Promise.resolve();
        const ns = new Float64Array(steps.length);
        all(0, steps.length, (i, ms) => (ns[i] = ms * 1e6));
        return { ns, tasks: new Float64Array(steps.length).fill(1) };
      },
      dispose: () => undefined,
    };
  }

  #bound({ kernel: key, buffers, ints, unless }: BoundKernel): () => void {
    const found = this.#compiled.get(key);
    if (!found) throw new Error(`kernel ${key} was not compiled`);
    const { kernel, run } = found;
    const views: TypedArray[] = [],
      tracked: Tracked[] = [];
    buffers.forEach((place, i) => {
      const { data, bytes, accesses: own } = memoryOf(place),
        { dtype } = kernel.buffers[i],
        size = bytesPer(dtype),
        count = Math.max(0, Math.floor((bytes - place.offset) / size));
      views.push(viewOf(dtype, data, place.offset, count));
      tracked.push({ name: `b${i}`, count, first: place.offset, size, accesses: own, shared: false });
    });
    const skip = unless && new Int32Array(memoryOf(unless).data, unless.offset, 1);
    return () => {
      if (skip && skip[0] !== 0) return;
      this.#tracker.beginLaunch();
      try {
        run(views, tracked, ints);
      } catch (error) {
        const message = error instanceof Error ? error.message : String(error);
        throw new Error(`${message}\nkernel ${printScheduled(kernel)}`, { cause: error });
      }
    };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

function memoryOf({ memory }: Place): InterpreterMemory {
  if (!(memory instanceof InterpreterMemory)) throw new Error('the memory of another device');
  return memory;
}
