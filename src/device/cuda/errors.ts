// Errors of the CUDA device: results of calls, and everything that a machine may lack, each as one line with a hint.
import { UserError } from '../../base/errors.ts';

/** Results of calls that the device tells apart (CUresult in cuda.h). */
export const RESULT = {
  outOfMemory: 2,
  stubLibrary: 34,
  noDevice: 100,
  notReady: 600,
} as const;

/**
 * After one of these, a context is lost: every later call on it fails. uncorrectable memory (ECC, NVLink), contained
 * error, illegal address, time limit, context destroyed, assertion, and other faults of kernels.
 */
const FATAL: ReadonlySet<number> = new Set([214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999]);

export const isFatal = (code: number): boolean => FATAL.has(code);

/** A call of libcuda that failed: `cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory`. */
export class CudaError extends Error {
  override readonly name: string = 'CudaError';
  readonly code: number;
  constructor(call: string, code: number, name: string | null, text: string | null) {
    super(`${call}: ${name ?? 'error'} (${code})${text === null ? '' : `: ${text}`}`);
    this.code = code;
  }
}

/** Whether a call failed because there was too little memory on the GPU, or pinned memory on the host. */
export const isOutOfMemory = (error: unknown): boolean =>
  error instanceof CudaError && error.code === RESULT.outOfMemory;

/** What the device needs. Driver: CUDA 12.0 has graphs whose kernel nodes name their context. */
export const LEAST = { driver: 12000, capability: 70, nvrtc: 12 } as const;

/** 13.0 of 13000. */
export const showVersion = (version: number): string =>
  `${Math.floor(version / 1000)}.${Math.floor(version / 10) % 100}`;
/** 9.0 of 90. */
export const showCapability = (capability: number): string => `${Math.floor(capability / 10)}.${capability % 10}`;

const ON_CPU = "device 'native' runs on the CPU";

/** This machine lacks something. `auto` says the first line, unless nothing of NVIDIA is here (`silent`). */
export class NoCuda extends UserError {
  /** There is no driver, or no GPU. */
  readonly silent: boolean;
  constructor(what: string, hint: string, silent = false, cause?: unknown) {
    super(`device cuda: ${what}`, `${hint}; ${ON_CPU}`, cause);
    this.silent = silent;
  }
}

/** named: the path comes from the environment. */
export const noDriver = (path: string, named: boolean, error: unknown): NoCuda =>
  named
    ? new NoCuda(
        `the library ${path} that DYNAMOE_CUDA_DRIVER names cannot be loaded: ${firstLine(error)}`,
        'name the libcuda.so.1 of the NVIDIA driver, or leave the variable out',
        false,
        error,
      )
    : new NoCuda(
        `no NVIDIA driver was found (${path})`,
        "install NVIDIA's driver, or name its library with DYNAMOE_CUDA_DRIVER; a container needs --gpus all",
        true,
        error,
      );

export const oldDriver = (version: number): NoCuda =>
  new NoCuda(
    `the NVIDIA driver supports CUDA ${showVersion(version)}, and ${showVersion(LEAST.driver)} is needed`,
    'install driver 525 or newer',
  );

export const noFunction = (path: string, name: string, error: unknown): NoCuda =>
  new NoCuda(`${path} has no function ${name}`, 'it is not the library of an NVIDIA driver, or too old', false, error);

export const noGpu = (): NoCuda =>
  new NoCuda(
    'the NVIDIA driver finds no GPU',
    'nvidia-smi lists GPUs; CUDA_VISIBLE_DEVICES may hide them, and a container needs --gpus all',
    true,
  );

export const noStart = (error: CudaError): NoCuda =>
  new NoCuda(
    `the NVIDIA driver could not be started: ${error.message}`,
    error.code === RESULT.stubLibrary
      ? 'this is the library for linking that comes with the toolkit, not that of the driver'
      : 'nvidia-smi says whether the driver works',
    error.code === RESULT.stubLibrary,
    error,
  );

export const firstLine = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split('\n')[0];
