// A device that runs the text of CUDA kernels on the CPU, by shim.h: without a GPU, tests see what the text computes.
import { hash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DTYPES } from '../../../src/base/dtype.ts';
import type { TypedArray } from '../../../src/base/dtype.ts';
import { normalsText, NORMALS_THREADS, prelude } from '../../../src/device/cuda/prelude.ts';
import { onlyKernels, type Bound, type BoundKernel, type BoundStep, type Device } from '../../../src/device/device.ts';
import type { KernelSource, Memory, Place, Read, StepTimes } from '../../../src/device/device.ts';
import { loadDriver, type Driver } from '../../../src/device/native/driver.ts';
import { loadKoffi } from '../../../src/device/koffi.ts';
import { NativeMemory } from '../../../src/device/native/memory.ts';
import { compileShared, findToolchain, noCompiler, type Toolchain } from '../../../src/device/native/toolchain.ts';
import { isNormals, NORMALS, type NormalsSource } from '../../../src/device/normals.ts';
import { emitFile, functionName } from '../../../src/emit/cuda/kernel.ts';
import { GPU } from '../../../src/schedule/gpu.ts';
import { forGpu } from '../../../src/schedule/schedule.ts';
import type { GpuTarget } from '../../../src/schedule/target.ts';

/** As few blocks as a GPU with two multiprocessors would have. */
const SHIM_GPU: GpuTarget = { ...GPU, blocks: 4 };

const SHIM = join(import.meta.dirname, 'shim.h');
const FLAGS = ['-std=gnu11', '-O1', '-march=native', '-fPIC', '-shared', '-w', '-fwrapv', '-ffp-contract=off'];
const PER_FILE = 8;

/** Runs kernel `name` of a compiled text. Throws what is wrong with its barriers. */
type Launch = (name: string, words: BigInt64Array, blocks: number, threads: number) => void;

export interface TextLaunch {
  readonly name: string;
  readonly blocks: number;
  readonly threads: number;
  /** Changed in place. */
  readonly buffers: readonly TypedArray[];
  readonly ints?: readonly number[];
  /** An int32: the kernel is skipped if it is not 0. */
  readonly unless?: number;
}

/** Compiles a text of kernels, and runs one of them on arrays of the host. */
export async function runText(text: string, k: TextLaunch): Promise<void> {
  const [tool, driver] = await openDriver(),
    launch = await compileText(tool, driver, text),
    arrays = [Int32Array.of(k.unless ?? 0), ...k.buffers],
    addresses = arrays.map((a) => driver.alloc(Math.max(256, a.byteLength)));
  arrays.forEach((a, i) => {
    driver.copyIn(addresses[i], a, a.byteLength);
  });
  const [unless, ...rest] = addresses,
    words = BigInt64Array.from([k.unless === undefined ? 0 : unless, ...rest, ...(k.ints ?? [])].map(BigInt));
  try {
    launch(k.name, words, k.blocks, k.threads);
  } finally {
    arrays.forEach((a, i) => {
      driver.copyOut(a, addresses[i], a.byteLength);
      driver.free(addresses[i], Math.max(256, a.byteLength));
    });
  }
}

async function openDriver(): Promise<[Toolchain, Driver]> {
  const tool = await findToolchain();
  if (!tool) throw noCompiler();
  return [tool, await loadDriver(tool, () => undefined)];
}

/** Compiles a text with what stands before it; what was compiled is kept on disk. */
async function compileText(tool: Toolchain, driver: Driver, text: string): Promise<Launch> {
  const koffi = await loadKoffi(),
    whole = `#include "${SHIM}"\n${prelude()}#line 1 "kernels"\n${text}`,
    key = `shim_${hash('sha256', [tool.id, ...FLAGS, readFileSync(SHIM, 'utf8'), whole].join('\n'))}`;
  return driver.cache.load(
    key,
    async (target) => {
      const source = await driver.cache.write(`${key}.c`, whole);
      await compileShared({ ...tool, flags: FLAGS }, [source], driver.include, target);
    },
    (path) => {
      const library = driver.open(path),
        call = 'const char *dm_shim_launch(int64_t kernel, const int64_t *words, int64_t blocks, int64_t threads)',
        launch = koffi.load(path).func(call);
      return (name, ...args) => {
        const kernel = driver.symbol(library, name);
        if (kernel === 0) throw new Error(`no kernel ${name} in ${path}`);
        const wrong = launch(kernel, ...args) as string | null;
        if (wrong !== null) throw new Error(wrong);
      };
    },
  );
}

interface Compiled {
  readonly name: string;
  readonly blocks: number;
  readonly threads: number;
  readonly launch: Launch;
}

export class ShimDevice implements Device {
  readonly target: GpuTarget;
  readonly info = {
    name: 'shim',
    threads: 1,
    description: 'CUDA kernels on the CPU',
    exact: DTYPES.filter((d) => d !== 'float64'),
  };
  readonly #tool: Toolchain;
  readonly #driver: Driver;
  readonly #memory: NativeMemory;
  readonly #compiled = new Map<string, Compiled>();

  private constructor(tool: Toolchain, driver: Driver, target: GpuTarget) {
    this.target = target;
    this.#tool = tool;
    this.#driver = driver;
    this.#memory = new NativeMemory(driver);
  }

  static async open(target = SHIM_GPU): Promise<ShimDevice> {
    return new ShimDevice(...(await openDriver()), target);
  }

  alloc(bytes: number): Memory {
    return this.#memory.alloc(bytes);
  }
  free(memory: Memory): void {
    this.#memory.free(memory);
  }
  write(place: Place, data: TypedArray): void {
    this.#memory.write(place, data);
  }
  read(reads: readonly Read[]): Promise<void> {
    for (const { place, into } of reads) this.#memory.read(place, into);
    return Promise.resolve();
  }

  async compile(kernels: readonly (KernelSource | NormalsSource)[]): Promise<void> {
    const fresh = kernels.filter((k) => !this.#compiled.has(k.key)),
      sources = fresh.filter((k): k is KernelSource => !isNormals(k)),
      files = Array.from({ length: Math.ceil(sources.length / PER_FILE) }, (_, i) =>
        sources.slice(i * PER_FILE, (i + 1) * PER_FILE),
      );
    const add = async (): Promise<void> => {
      for (let file = files.shift(); file; file = files.shift()) {
        const launch = await compileText(this.#tool, this.#driver, emitFile(file));
        for (const { key, kernel } of file)
          this.#compiled.set(key, { name: functionName(key), ...forGpu(kernel), launch });
      }
    };
    await Promise.all([add(), add()]);
    if (sources.length < fresh.length) {
      const launch = await compileText(this.#tool, this.#driver, normalsText());
      this.#compiled.set(NORMALS.key, {
        name: 'dm_normals',
        blocks: SHIM_GPU.blocks,
        threads: NORMALS_THREADS,
        launch,
      });
    }
  }

  bind(steps: readonly BoundStep[]): Bound {
    const runs = onlyKernels(steps, this.info.name).map((step) => this.#bound(step));
    const all = async (from: number, to: number, done: (i: number, ms: number) => void): Promise<void> => {
      await Promise.resolve();
      for (let i = from; i < to; i++) {
        const start = performance.now();
        runs[i]();
        done(i, performance.now() - start);
      }
    };
    return {
      run: (from = 0, to = steps.length) => all(from, to, () => undefined),
      profile: async (): Promise<StepTimes> => {
        const ns = new Float64Array(steps.length);
        await all(0, steps.length, (i, ms) => (ns[i] = ms * 1e6));
        return { ns, tasks: new Float64Array(steps.length).fill(1) };
      },
      dispose: () => undefined,
    };
  }

  #bound({ kernel: key, buffers, ints, unless }: BoundKernel): () => void {
    const found = this.#compiled.get(key);
    if (!found) throw new Error(`kernel ${key} was not compiled`);
    const addresses = buffers.map((place) => this.#memory.addressOf(place)),
      words = BigInt64Array.from([unless ? this.#memory.addressOf(unless) : 0, ...addresses, ...ints].map(BigInt));
    return () => {
      found.launch(found.name, words, found.blocks, found.threads);
    };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
