// The CUDA device: an NVIDIA GPU through libcuda. Kernels are CUDA C++, compiled by NVRTC; a table of steps is one CUDA
// graph; everything is done in the order of one stream.
import { DTYPES, type TypedArray } from '../../base/dtype.ts';
import { GPU } from '../../schedule/gpu.ts';
import type { GpuTarget } from '../../schedule/target.ts';
import { kernelCache, type KernelCache } from '../cache.ts';
import { onlyKernels, type Bound, type BoundStep, type Device, type DeviceInfo } from '../device.ts';
import type { KernelSource, Memory, Place, Read } from '../device.ts';
import { loadKoffi } from '../koffi.ts';
import type { NormalsSource } from '../normals.ts';
import { showCapability, showVersion } from './errors.ts';
import { chooseGpu, gpusOf, type Gpu } from './gpus.ts';
import { BUFFERS, Launcher, wordsOf } from './launch.ts';
import { Cuda } from './libcuda.ts';
import { CudaLibrary } from './library.ts';
import { CudaMemory } from './memory.ts';
import { Nvrtc } from './nvrtc.ts';
import { Staging } from './staging.ts';
import { CudaStream } from './stream.ts';
import { CudaTable } from './table.ts';

/** Blocks that run at the same time on a multiprocessor. */
const BLOCKS = 2;
/** Of the free memory, this part is left for machine code, graphs and other programs, but at most so many bytes. */
const RESERVED = { part: 1 / 16, most: 512 * 2 ** 20 };

export class CudaDevice implements Device {
  readonly info: DeviceInfo;
  readonly target: GpuTarget;
  readonly #gpu: Gpu;
  readonly #stream: CudaStream;
  readonly #staging: Staging;
  readonly #launcher: Launcher;
  readonly #memory: CudaMemory;
  readonly #library: CudaLibrary;
  #compiler: Promise<Nvrtc> | null = null;
  #closed: Promise<void> | null = null;

  /** free: bytes of the GPU's memory that nobody uses. */
  private constructor(
    gpu: Gpu,
    stream: CudaStream,
    staging: Staging,
    launcher: Launcher,
    free: number,
    cache: KernelCache,
    threads: number,
  ) {
    const { capability, multiprocessors, index, name } = gpu,
      bytes = Math.floor(free - Math.min(RESERVED.most, free * RESERVED.part));
    this.#gpu = gpu;
    this.#stream = stream;
    this.#staging = staging;
    this.#launcher = launcher;
    this.#memory = new CudaMemory(stream, bytes);
    const target = {
      ...GPU,
      limits: { ...GPU.limits, buffers: BUFFERS },
      blocks: BLOCKS * multiprocessors,
      threads,
    };
    this.target = target;
    this.#library = new CudaLibrary({ stream, cache, compiler: () => this.#loadCompiler(), capability, target });
    this.info = {
      name: 'cuda',
      threads: 1,
      // exp and the like of float64 are NVIDIA's.
      exact: DTYPES.filter((dtype) => dtype !== 'float64'),
      description:
        `GPU ${index}, ${name}, compute capability ${showCapability(capability)}, ${multiprocessors} ` +
        `multiprocessors, CUDA ${showVersion(stream.cuda.version)}`,
      limit: { bytes, why: `free on GPU ${index} when the device was opened`, own: true },
    };
  }

  /**
   * Opens a GPU: `cuda`, `cuda:INDEX` or `cuda:GPU-UUID`. say: receives a line if compiled kernels are not kept in
   * their usual place. threads: of a block, for tests. Throws UserError if there is no driver, no such GPU, or it
   * cannot be used.
   */
  static async open(
    name = 'cuda',
    say: (line: string) => void = console.warn,
    threads = GPU.threads,
  ): Promise<CudaDevice> {
    const cuda = await Cuda.load(),
      koffi = await loadKoffi(),
      gpu = chooseGpu(gpusOf(cuda), name),
      context = cuda.make('cuDevicePrimaryCtxRetain', gpu.handle),
      opened: (() => void)[] = [() => cuda.result('cuDevicePrimaryCtxRelease_v2', gpu.handle)];
    try {
      cuda.call('cuCtxSetCurrent', context);
      const stream = new CudaStream(cuda, context);
      opened.push(() => {
        stream.destroy();
      });
      const staging = new Staging(stream, koffi);
      opened.push(() => {
        staging.close();
      });
      const free = new BigUint64Array(1);
      cuda.call('cuMemGetInfo_v2', free, new BigUint64Array(1));
      return new CudaDevice(
        gpu,
        stream,
        staging,
        new Launcher(stream, koffi),
        Number(free[0]),
        kernelCache(say),
        threads,
      );
    } catch (error) {
      for (const undo of opened.reverse()) undo();
      throw error;
    }
  }

  alloc(bytes: number): Memory {
    this.#stream.enter();
    return this.#memory.alloc(bytes);
  }
  free(memory: Memory): void {
    this.#memory.free(memory);
  }

  write(place: Place, data: TypedArray): void {
    this.#stream.enter();
    this.#staging.write(this.#memory.rangeOf(place, data.byteLength), data);
  }

  async read(reads: readonly Read[]): Promise<void> {
    this.#stream.enter();
    return this.#staging.read(
      reads.map(({ place, into }) => ({ from: this.#memory.rangeOf(place, into.byteLength), into })),
    );
  }

  compile(kernels: readonly (KernelSource | NormalsSource)[]): Promise<void> {
    return this.#library.add(kernels);
  }

  /** Throws UserError if new kernels cannot be compiled. */
  async checkCompiler(): Promise<void> {
    (await this.#loadCompiler()).architecture(this.#gpu.capability);
  }

  /** Loads NVRTC once; if that fails, again the next time. */
  #loadCompiler(): Promise<Nvrtc> {
    const loading = (this.#compiler ??= Nvrtc.load(this.#stream.cuda.version));
    loading.catch(() => {
      this.#compiler = null;
    });
    return loading;
  }

  bind(steps: readonly BoundStep[]): Bound {
    this.#stream.enter();
    return new CudaTable(
      this.#stream,
      this.#launcher,
      onlyKernels(steps, this.info.name).map(({ kernel: key, buffers, ints, barrier, unless }) => ({
        key,
        barrier,
        kernel: this.#library.get(key),
        words: wordsOf(key, [
          unless ? this.#memory.addressOf(unless) : 0n,
          ...buffers.map((place) => this.#memory.addressOf(place)),
          ...ints.map(BigInt),
        ]),
      })),
    );
  }

  close(): Promise<void> {
    return (this.#closed ??= this.#close());
  }

  async #close(): Promise<void> {
    await this.#stream.close();
    this.#library.close();
    this.#memory.close();
    this.#staging.close();
    this.#stream.destroy();
    this.#stream.cuda.result('cuDevicePrimaryCtxRelease_v2', this.#gpu.handle);
  }
}
