// The compiled kernels of a CUDA device: prints CUDA C++ for new kernels, compiles it in files of a few, and finds
// compiled ones on disk. They are kept by content (text, flags, architecture) and not by compiler, so that a machine
// without a compiler runs them. What the driver refuses is compiled again.
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { hashHex } from '../../base/hash.ts';
import { emitFile, functionName } from '../../emit/cuda/kernel.ts';
import { forGpu } from '../../schedule/schedule.ts';
import type { GpuTarget } from '../../schedule/target.ts';
import type { KernelCache } from '../cache.ts';
import type { KernelSource } from '../device.ts';
import { inFiles } from '../files.ts';
import { isNormals, type NormalsSource } from '../normals.ts';
import { once, sourcesHash } from '../sources.ts';
import { CudaError, isFatal, isOutOfMemory } from './errors.ts';
import { FLAGS, type Nvrtc } from './nvrtc.ts';
import { normalsText, NORMALS_THREADS, prelude } from './prelude.ts';
import type { CudaStream } from './stream.ts';

/** Files that are compiled at the same time: koffi calls C on so many threads. */
const PARALLEL = 4;

const emitterHash = once(() => sourcesHash(['base', 'kernel', 'schedule', 'emit/clike', 'emit/c', 'emit/cuda']));

/** A kernel that can be launched. */
export interface CudaKernel {
  /** CUfunction */
  readonly function: bigint;
  readonly blocks: number;
  readonly threads: number;
}

type Source = KernelSource | NormalsSource;

export interface LibraryOptions {
  readonly stream: CudaStream;
  readonly cache: KernelCache;
  /** Loads the compiler when it is first needed. */
  readonly compiler: () => Promise<Nvrtc>;
  /** Of the GPU: 90 is compute capability 9.0. */
  readonly capability: number;
  /** For it kernels are scheduled. Their text holds the number of blocks and threads. */
  readonly target: GpuTarget;
}

export class CudaLibrary {
  readonly #of: LibraryOptions;
  readonly #kernels = new Map<string, CudaKernel>();
  /** Modules by the path of their file. */
  readonly #modules = new Map<string, bigint>();
  /** What decides about machine code beside the text of kernels. */
  readonly #salt: string;
  /** Together with a kernel's key, it identifies the kernel's text: a compiled kernel is found without printing it. */
  readonly #version: string;

  constructor(options: LibraryOptions) {
    this.#of = options;
    this.#salt = [options.capability, ...FLAGS, prelude()].join('\n');
    const { threads, blocks, shared } = options.target;
    this.#version = hashHex([this.#salt, threads, blocks, shared, normalsText(), emitterHash()].join('\n'));
  }

  get(key: string): CudaKernel {
    const found = this.#kernels.get(key);
    if (!found) throw new Error(`kernel ${key} was not compiled`);
    return found;
  }

  async add(kernels: readonly Source[]): Promise<void> {
    const fresh = new Map(kernels.filter(({ key }) => !this.#kernels.has(key)).map((k) => [k.key, k])),
      missing = [...fresh.values()].filter((k) => !this.#find(k)),
      compiler = missing.length > 0 ? await this.#of.compiler() : null;
    if (!compiler) return;
    // The routine of initial values has a file of its own: it is the same for all models.
    await inFiles(missing.filter(isNormals), PARALLEL, (file) => this.#compile(compiler, normalsText(), file));
    await inFiles(missing.filter(isPrinted), PARALLEL, (file) => this.#compile(compiler, emitFile(file), file));
  }

  /** Takes a kernel from disk, if it is there and the driver takes it. */
  #find(kernel: Source): boolean {
    const path = this.#of.cache.find(this.#name(kernel));
    try {
      return path !== null && this.#take(path, [kernel]) === path;
    } catch (error) {
      if (isRefusal(error)) return false;
      throw error;
    }
  }

  async #compile(compiler: Nvrtc, text: string, file: readonly Source[]): Promise<void> {
    const { cache, capability } = this.#of,
      name = `cubin_${hashHex(this.#salt + text)}`,
      whole = prelude() + text;
    const path = await cache.load(
      name,
      async (target) => {
        const source = await cache.write(`${name}.cu`, whole);
        await writeFile(target, await compiler.compile(whole, source, compiler.architecture(capability)));
      },
      (made) => this.#take(made, file),
    );
    await Promise.all(file.map((kernel) => cache.link(this.#name(kernel), path)));
  }

  #name({ key }: Source): string {
    return `cuda_${key}_${this.#version}`;
  }

  /** Loads a file and finds the functions of these kernels in it. Returns its path. Throws CudaError. */
  #take(path: string, kernels: readonly Source[]): string {
    const { stream, target } = this.#of;
    stream.enter();
    let module = this.#modules.get(path);
    if (module === undefined) {
      module = stream.make('cuModuleLoadData', readFileSync(path));
      this.#modules.set(path, module);
    }
    for (const k of kernels) {
      const made = stream.make('cuModuleGetFunction', module, isNormals(k) ? 'dm_normals' : functionName(k.key)),
        // The schedule says how a kernel is launched, also of a kernel that was found on disk.
        grid = isPrinted(k) ? forGpu(k.kernel) : { blocks: target.blocks, threads: NORMALS_THREADS };
      this.#kernels.set(k.key, { function: made, blocks: grid.blocks, threads: grid.threads });
    }
    return path;
  }

  /** Gives the modules back. Nothing may be running. */
  close(): void {
    for (const module of this.#modules.values()) this.#of.stream.giveBack('cuModuleUnload', module);
    this.#modules.clear();
  }
}

const isPrinted = (source: Source): source is KernelSource => !isNormals(source);

/** Whether the driver refuses a file: it was made for another GPU, or by a newer compiler. */
const isRefusal = (error: unknown): boolean =>
  error instanceof CudaError && !isFatal(error.code) && !isOutOfMemory(error);
