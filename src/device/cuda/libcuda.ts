// libcuda, the library of NVIDIA's driver, callable from TypeScript: only the functions that the device uses, by the
// names of their symbols (cuda.h maps cuMemAlloc to cuMemAlloc_v2). Handles and addresses are bigints; functions give
// results through typed arrays. A test compares the declarations with cuda.h.
import { loadKoffi } from '../koffi.ts';
import { CudaError, LEAST, noDriver, noFunction, noGpu, noStart, oldDriver, RESULT } from './errors.ts';

/** The types of their arguments. All return CUresult, an int. */
const FUNCTIONS = {
  cuInit: 'unsigned int',
  cuDriverGetVersion: 'int *',
  cuGetErrorName: 'CUresult, const char **',
  cuGetErrorString: 'CUresult, const char **',
  cuDeviceGetCount: 'int *',
  cuDeviceGet: 'CUdevice *, int',
  cuDeviceGetName: 'char *, int, CUdevice',
  cuDeviceGetUuid_v2: 'CUuuid *, CUdevice',
  cuDeviceTotalMem_v2: 'size_t *, CUdevice',
  cuDeviceGetAttribute: 'int *, CUdevice_attribute, CUdevice',
  cuDevicePrimaryCtxRetain: 'CUcontext *, CUdevice',
  cuDevicePrimaryCtxRelease_v2: 'CUdevice',
  cuCtxSetCurrent: 'CUcontext',
  cuMemGetInfo_v2: 'size_t *, size_t *',
  cuMemAlloc_v2: 'CUdeviceptr *, size_t',
  cuMemFree_v2: 'CUdeviceptr',
  cuMemHostAlloc: 'void **, size_t, unsigned int',
  cuMemFreeHost: 'void *',
  cuMemcpyHtoDAsync_v2: 'CUdeviceptr, const void *, size_t, CUstream',
  cuMemcpyDtoHAsync_v2: 'void *, CUdeviceptr, size_t, CUstream',
  cuMemsetD8Async: 'CUdeviceptr, unsigned char, size_t, CUstream',
  cuStreamCreate: 'CUstream *, unsigned int',
  cuStreamDestroy_v2: 'CUstream',
  cuStreamSynchronize: 'CUstream',
  cuEventCreate: 'CUevent *, unsigned int',
  cuEventDestroy_v2: 'CUevent',
  cuEventRecord: 'CUevent, CUstream',
  cuEventQuery: 'CUevent',
  cuEventElapsedTime: 'float *, CUevent, CUevent',
  cuModuleLoadData: 'CUmodule *, const void *',
  cuModuleUnload: 'CUmodule',
  cuModuleGetFunction: 'CUfunction *, CUmodule, const char *',
  // function, blocks (x, y, z), threads (x, y, z), bytes of dynamic shared memory, stream, parameters, extra
  cuLaunchKernel:
    'CUfunction, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, ' +
    'CUstream, void **, void **',
  cuGraphCreate: 'CUgraph *, unsigned int',
  cuGraphDestroy: 'CUgraph',
  // the new node, the graph, the nodes before it, how many
  cuGraphAddKernelNode_v2: 'CUgraphNode *, CUgraph, const CUgraphNode *, size_t, const CUDA_KERNEL_NODE_PARAMS *',
  cuGraphAddEmptyNode: 'CUgraphNode *, CUgraph, const CUgraphNode *, size_t',
  cuGraphInstantiateWithFlags: 'CUgraphExec *, CUgraph, unsigned long long',
  cuGraphUpload: 'CUgraphExec, CUstream',
  cuGraphLaunch: 'CUgraphExec, CUstream',
  cuGraphExecDestroy: 'CUgraphExec',
} as const;

export type CudaFunction = keyof typeof FUNCTIONS;

/** Every function, declared in C. */
export const declarations = (): string[] =>
  Object.entries(FUNCTIONS).map(([name, types]) => `CUresult ${name}(${types})`);

/** Types that are no pointers, as koffi names them. Other types of CUDA are handles, which are pointers. */
const NUMBERS: Readonly<Record<string, string>> = {
  CUresult: 'int',
  CUdevice: 'int',
  CUdevice_attribute: 'int',
  CUdeviceptr: 'uint64_t',
};

const passed = (type: string): string =>
  type === 'const char *'
    ? type
    : type.endsWith('*')
      ? 'void *'
      : (NUMBERS[type] ?? (type.startsWith('CU') ? 'void *' : type));

export type Argument = number | bigint | string | NodeJS.TypedArray | null;
type Foreign = (...args: readonly Argument[]) => number;

/** Attributes of a GPU (CUdevice_attribute in cuda.h). */
export const ATTRIBUTE = { multiprocessors: 16, major: 75, minor: 76 } as const;
/** Flags: the stream does not wait for the default stream; the event does not take the time. */
export const STREAM_NON_BLOCKING = 1,
  EVENT_DISABLE_TIMING = 2;

export class Cuda {
  /** The newest CUDA that the driver supports: 13000 is 13.0. */
  readonly version: number;
  readonly #functions: Readonly<Record<CudaFunction, Foreign>>;
  readonly #text: (address: bigint) => string;

  private constructor(
    functions: Readonly<Record<CudaFunction, Foreign>>,
    text: (address: bigint) => string,
    version: number,
  ) {
    this.#functions = functions;
    this.#text = text;
    this.version = version;
  }

  /** Loads the library and starts the driver. Throws NoCuda if there is none, it is too old, or there is no GPU. */
  static async load(): Promise<Cuda> {
    const koffi = await loadKoffi(),
      named = process.env['DYNAMOE_CUDA_DRIVER'],
      path = named ?? 'libcuda.so.1';
    let lib: ReturnType<typeof koffi.load>;
    try {
      lib = koffi.load(path);
    } catch (error) {
      throw noDriver(path, named !== undefined, error);
    }
    const get = (name: CudaFunction): Foreign => {
      try {
        return lib.func(`int ${name}(${FUNCTIONS[name].split(', ').map(passed).join(', ')})`) as Foreign;
      } catch (error) {
        throw noFunction(path, name, error);
      }
    };
    const version = new Int32Array(1);
    get('cuDriverGetVersion')(version);
    if (version[0] < LEAST.driver) throw oldDriver(version[0]);
    const names = Object.keys(FUNCTIONS) as CudaFunction[],
      functions = Object.fromEntries(names.map((name) => [name, get(name)])) as Record<CudaFunction, Foreign>,
      cuda = new Cuda(functions, (address) => String(koffi.decode.string(address)), version[0]),
      code = functions.cuInit(0);
    if (code === RESULT.noDevice) throw noGpu();
    if (code !== 0) throw noStart(cuda.error('cuInit', code));
    return cuda;
  }

  /** Calls a function. Returns its result, which the caller checks. */
  result(name: CudaFunction, ...args: readonly Argument[]): number {
    return this.#functions[name](...args);
  }

  /** Calls a function. Throws CudaError if it fails. */
  call(name: CudaFunction, ...args: readonly Argument[]): void {
    const code = this.#functions[name](...args);
    if (code !== 0) throw this.error(name, code);
  }

  /** Calls a function that gives a handle or an address through its first argument. */
  make(name: CudaFunction, ...args: readonly Argument[]): bigint {
    const cell = new BigUint64Array(1);
    this.call(name, cell, ...args);
    return cell[0];
  }

  /** Calls a function that gives an int through its first argument. */
  int(name: CudaFunction, ...args: readonly Argument[]): number {
    const cell = new Int32Array(1);
    this.call(name, cell, ...args);
    return cell[0];
  }

  error(name: CudaFunction, code: number): CudaError {
    return new CudaError(name, code, this.#word('cuGetErrorName', code), this.#word('cuGetErrorString', code));
  }

  #word(name: 'cuGetErrorName' | 'cuGetErrorString', code: number): string | null {
    const cell = new BigUint64Array(1);
    return this.#functions[name](code, cell) === 0 && cell[0] !== 0n ? this.#text(cell[0]) : null;
  }
}
