// NVRTC, NVIDIA's compiler as a library: CUDA C++ to machine code (a cubin). It runs on another thread. A test compares
// the declarations with nvrtc.h.
import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { UserError } from '../../base/errors.ts';
import { loadKoffi } from '../koffi.ts';
import { firstLine, LEAST, showCapability } from './errors.ts';

/**
 * Arithmetic as the native device's: no multiply-add that the kernel does not say, no flush of small numbers to 0,
 * divisions and roots rounded correctly.
 */
export const FLAGS: readonly string[] = [
  '--std=c++17',
  '--fmad=false',
  '--ftz=false',
  '--prec-div=true',
  '--prec-sqrt=true',
];

/** Names of the library, newest first. A driver loads what a compiler of its own major version or an older one made. */
const MAJORS = [13, 12];
const LINES = 5; // error lines of the compiler that are shown

const FUNCTIONS = {
  nvrtcVersion: 'int *, int *',
  nvrtcGetNumSupportedArchs: 'int *',
  nvrtcGetSupportedArchs: 'int *',
  nvrtcCreateProgram: 'nvrtcProgram *, const char *, const char *, int, const char * const *, const char * const *',
  nvrtcCompileProgram: 'nvrtcProgram, int, const char * const *',
  nvrtcGetProgramLogSize: 'nvrtcProgram, size_t *',
  nvrtcGetProgramLog: 'nvrtcProgram, char *',
  nvrtcGetCUBINSize: 'nvrtcProgram, size_t *',
  nvrtcGetCUBIN: 'nvrtcProgram, char *',
  nvrtcDestroyProgram: 'nvrtcProgram *',
} as const;
type NvrtcFunction = keyof typeof FUNCTIONS;

/** Every function, declared in C. */
export const declarations = (): string[] =>
  Object.entries(FUNCTIONS).map(([name, types]) => `nvrtcResult ${name}(${types})`);

type Argument = number | bigint | NodeJS.TypedArray | readonly string[] | null;
type Foreign = ((...args: readonly Argument[]) => number) & {
  async(...args: readonly (Argument | ((error: unknown, code: number) => void))[]): void;
};

const passed = (type: string): string =>
  type === 'const char * const *' ? 'const char **' : type.endsWith('*') || type === 'nvrtcProgram' ? 'void *' : type;

/** Text as C reads it. */
const text = (value: string): Uint8Array => Buffer.from(`${value}\0`);

export class Nvrtc {
  /** NVRTC 13.0 */
  readonly description: string;
  readonly #functions: Readonly<Record<NvrtcFunction, Foreign>>;
  readonly #architectures: readonly number[];

  private constructor(functions: Readonly<Record<NvrtcFunction, Foreign>>, description: string) {
    this.#functions = functions;
    this.description = description;
    const count = new Int32Array(1);
    this.#call('nvrtcGetNumSupportedArchs', count);
    const all = new Int32Array(count[0]);
    this.#call('nvrtcGetSupportedArchs', all);
    this.#architectures = [...all];
  }

  /**
   * Loads the library that DYNAMOE_NVRTC names, or the one that is found. Throws UserError if there is none.
   * driver: the newest CUDA that the driver supports (12040).
   */
  static async load(driver: number): Promise<Nvrtc> {
    const koffi = await loadKoffi(),
      named = process.env['DYNAMOE_NVRTC'],
      paths = named === undefined ? candidates(Math.floor(driver / 1000)) : [named],
      failed: string[] = [];
    for (const path of paths) {
      try {
        // Beside it is a library that it opens by name when it compiles, which fails unless this has been opened.
        for (const builtins of builtinsBeside(path)) koffi.load(builtins);
        const lib = koffi.load(path);
        const functions = Object.fromEntries(
          Object.entries(FUNCTIONS).map(([name, types]) => [
            name,
            lib.func(`int ${name}(${types.split(', ').map(passed).join(', ')})`),
          ]),
        ) as unknown as Record<NvrtcFunction, Foreign>;
        const [major, minor] = [new Int32Array(1), new Int32Array(1)];
        const code = functions.nvrtcVersion(major, minor);
        if (code !== 0) throw new Error(`nvrtcVersion: error ${code}`);
        if (major[0] >= LEAST.nvrtc) return new Nvrtc(functions, `NVRTC ${major[0]}.${minor[0]}`);
        failed.push(`${path} is NVRTC ${major[0]}.${minor[0]}, and ${LEAST.nvrtc}.0 is needed`);
      } catch (error) {
        failed.push(firstLine(error));
      }
    }
    throw new UserError(
      `device cuda: NVRTC, which compiles kernels, was not found (${paths.join(', ')})`,
      `install it (pip install nvidia-cuda-nvrtc, or the CUDA toolkit), or name it with DYNAMOE_NVRTC; without it ` +
        `only kernels that were compiled before run. ${failed.at(-1) ?? ''}`,
    );
  }

  /**
   * The architecture for which kernels of a GPU are compiled: 90 for compute capability 9.0. Of a GPU that is newer
   * than the compiler, the newest one of its generation. Throws UserError if the compiler knows none.
   */
  architecture(capability: number): number {
    const found = this.#architectures.filter(
      (a) => a <= capability && Math.floor(a / 10) === Math.floor(capability / 10),
    );
    if (found.length > 0) return Math.max(...found);
    throw new UserError(
      `device cuda: ${this.description} does not know GPUs of compute capability ${showCapability(capability)}`,
      `it knows ${this.#architectures.map(showCapability).join(', ')}; DYNAMOE_NVRTC names another one`,
    );
  }

  /** Compiles a file for an architecture. name: in messages. Throws UserError with the first errors of the compiler. */
  async compile(source: string, name: string, architecture: number): Promise<Uint8Array> {
    const cell = new BigUint64Array(1),
      size = new BigUint64Array(1);
    this.#call('nvrtcCreateProgram', cell, text(source), text(name), 0, null, null);
    const [program] = cell;
    try {
      const options = [`--gpu-architecture=sm_${architecture}`, ...FLAGS],
        code = await this.#later('nvrtcCompileProgram', program, options.length, options);
      if (code !== 0) {
        this.#call('nvrtcGetProgramLogSize', program, size);
        const log = new Uint8Array(Number(size[0]));
        this.#call('nvrtcGetProgramLog', program, log);
        throw new UserError(`device cuda: ${this.description} failed on ${name}: ${errorsOf(log)} (${code})`, HINT);
      }
      this.#call('nvrtcGetCUBINSize', program, size);
      const cubin = new Uint8Array(Number(size[0]));
      this.#call('nvrtcGetCUBIN', program, cubin);
      return cubin;
    } finally {
      this.#call('nvrtcDestroyProgram', cell);
    }
  }

  #call(name: NvrtcFunction, ...args: readonly Argument[]): void {
    const code = this.#functions[name](...args);
    if (code !== 0) throw new Error(`${name}: error ${code}`);
  }

  #later(name: NvrtcFunction, ...args: readonly Argument[]): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#functions[name].async(...args, (error: unknown, code: number) => {
        if (error) reject(error instanceof Error ? error : new Error(`${name} failed`));
        else resolve(code);
      });
    });
  }
}

const HINT = 'the driver and NVRTC may not fit together: DYNAMOE_NVRTC names another one';

function errorsOf(log: Uint8Array): string {
  const lines = new TextDecoder()
      .decode(log)
      .replace(/\0[^]*$/, '')
      .split('\n'),
    errors = lines.filter((line) => /error/i.test(line));
  return (errors.length > 0 ? errors : lines).slice(0, LINES).join('\n') || 'it says nothing';
}

/** Where the library may be: on the loader's path, in the toolkit, among the packages of a Python environment. */
function candidates(driver: number): string[] {
  const { CUDA_PATH, CUDA_HOME, VIRTUAL_ENV, CONDA_PREFIX } = process.env,
    toolkits = [CUDA_PATH, CUDA_HOME, '/usr/local/cuda'].flatMap((root) => (root ? [join(root, 'lib64')] : [])),
    folders = [...toolkits, ...[VIRTUAL_ENV, CONDA_PREFIX].flatMap((root) => (root ? packagesOf(root) : []))];
  return [...MAJORS.filter((m) => m <= driver), ...MAJORS.filter((m) => m > driver)].flatMap((major) => {
    const file = `libnvrtc.so.${major}`;
    return [file, ...folders.map((folder) => join(folder, file)).filter((path) => existsSync(path))];
  });
}

/** Libraries that NVRTC opens by their names, where it is not on the loader's path. */
function builtinsBeside(path: string): string[] {
  const folder = dirname(path);
  if (folder === '.') return [];
  return readdirSync(folder)
    .filter((name) => /^libnvrtc-builtins\.so/.test(name))
    .map((name) => join(folder, name));
}

function packagesOf(environment: string): string[] {
  const lib = join(environment, 'lib');
  try {
    return readdirSync(lib)
      .filter((name) => name.startsWith('python3'))
      .flatMap((python) =>
        ['cu13', 'cuda_nvrtc'].map((name) => join(lib, python, 'site-packages', 'nvidia', name, 'lib')),
      );
  } catch {
    return [];
  }
}
