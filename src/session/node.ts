// The platform for Node: a GPU where there is one, the native device where a C compiler is found, the wasm device
// everywhere, checkpoint files.
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism, hostname } from 'node:os';
import { UserError } from '../base/errors.ts';
import { present } from '../base/lazy.ts';
import type { CudaDevice } from '../device/cuda/cuda.ts';
import type { NativeDevice } from '../device/native/native.ts';
import { findLauncher } from '../device/native/mpi/launcher.ts';
import type { Ranks } from '../device/ranks.ts';
import type { WasmDevice } from '../device/wasm/wasm.ts';
import { loadCheckpoint, saveCheckpoint } from '../io/checkpoint-file.ts';
import { freeMemory } from '../io/memory.ts';
import type { DeviceRequest, GpuName, Platform } from './platform.ts';
import { compileOn } from './compile.ts';
import * as extras from './extras.ts';
import { Group } from './ranks.ts';
import type { Session } from './session.ts';
import type { CompileOptions, Model } from './step.ts';

export const node: Platform = {
  async open(device, request) {
    switch (device) {
      case 'native':
        return openNative(request.threads, request.say, request.ranks);
      case 'wasm':
        return openWasm(request);
      case 'auto':
        return (
          (request.onCpu ? null : await openGpuIfAny(request.say)) ?? node.open(await chooseCpu(request.say), request)
        );
      default:
        return openCuda(device, request.say);
    }
  },
  threads: threadsOf,
  freeMemory: () => freeMemory(),
  files: { save: saveCheckpoint, load: loadCheckpoint },
  group: (ranks, options) => new Group(ranks, options),
};

/** The cores of this process. Ranks of a host that may run on the same cores (are not pinned) divide them. */
function threadsOf(ranks?: Ranks): number {
  const cores = availableParallelism();
  if (!ranks) return cores;
  const own = new TextEncoder().encode(`${hostname()} ${coresOf()}`),
    sharing = ranks.gather(own).filter((other) => Buffer.compare(own, other) === 0).length;
  return Math.max(1, Math.floor(cores / sharing));
}

/** The cores on which this process may run, as the system names them; '' where it does not say. */
function coresOf(): string {
  try {
    return /^Cpus_allowed_list:\s*(.*)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '';
  } catch {
    return '';
  }
}

/** What sessions in Node need besides a platform. */
export const NOW = present(extras);

/** Builds a session. Memory is checked and taken when the first program is compiled. */
export const compile = (model: Model, options: CompileOptions): Promise<Session> =>
  compileOn(node, model, options, NOW);

/**
 * The ranks that `mpirun` or `srun` has started, of which this process is one; null if it was started alone. Call it
 * before anything else of this library, in every rank; pass its result to `compile` as `ranks`. Throws RanksError if
 * the launcher's MPI has no compiler (mpicc), or the ranks do not fit together. say: receives a line if compiled files
 * are not in their usual place; default console.warn.
 */
export async function openRanks(say?: (line: string) => void): Promise<Ranks | null> {
  if (!findLauncher(process.env)) return null;
  return (await import('../device/native/mpi.ts')).openRanks(say);
}

// Imported only when needed: koffi, the library that calls C, has no binary for some platforms.
export async function openNative(threads: number, say?: (line: string) => void, ranks?: Ranks): Promise<NativeDevice> {
  const missing = missingSources();
  if (missing) throw missing;
  const native = await import('../device/native/native.ts');
  return native.NativeDevice.open(threads, say, ranks);
}

/** device: `cuda`, `cuda:INDEX` or `cuda:GPU-UUID`. Throws UserError if there is no such GPU, or it cannot be used. */
export async function openCuda(device?: GpuName, say?: (line: string) => void): Promise<CudaDevice> {
  const missing = missingSources();
  if (missing) throw missing;
  const cuda = await import('../device/cuda/cuda.ts');
  return cuda.CudaDevice.open(device, say);
}

/**
 * The first GPU, if it can be used, and a line that says so. Where there is no driver or no GPU, nothing is said; where
 * something else is missing, one line.
 */
async function openGpuIfAny(say: (line: string) => void): Promise<CudaDevice | null> {
  // Without the sources there is no native device either, whose line is enough.
  if (process.platform !== 'linux' || missingSources()) return null;
  try {
    const device = await openCuda('cuda', say);
    try {
      await device.checkCompiler();
    } catch (error) {
      await device.close();
      throw error;
    }
    say(`running on ${device.info.description}; device 'native' runs on the CPU`);
    return device;
  } catch (error) {
    const isExpected = error instanceof UserError && 'silent' in error && error.silent === true,
      [why] = (error instanceof Error ? error.message : String(error)).split('\n');
    if (!isExpected) say(`${why}: running on the CPU`);
    return null;
  }
}

// Imported only when needed: it is a large part of the library, and does not run where a C compiler is found.
async function openWasm(request: DeviceRequest): Promise<WasmDevice> {
  const wasm = await import('../device/wasm/wasm.ts'),
    { askForHugePages } = await import('../device/wasm/huge-pages.ts');
  return wasm.WasmDevice.open(request.threads, { ...request, fresh: askForHugePages });
}

/** An error if this module was bundled: bundlers include neither the C sources of the native device nor koffi. */
function missingSources(): UserError | null {
  const url = import.meta.url as string | undefined; // undefined in a bundle that is not an ES module
  if (url !== undefined && existsSync(new URL('../device/native/driver.c', url))) return null;
  return new UserError(
    'device native: dynamoe is part of a bundle, which lacks the C sources and the library koffi that this ' +
      'device needs',
    "leave dynamoe out of the bundle (esbuild --external:dynamoe; external: ['dynamoe'] in Vite and Rollup) and " +
      "install it where the bundle runs; device 'wasm' needs neither",
  );
}

/** How many times longer a step of the default language model takes on wasm than on native: docs/measurements.md. */
const WASM_SLOWDOWN = 2.4;

/** Chooses the device for `auto`: a GPU if there is one, native if that works, else wasm. `say` receives the reason. */
export async function chooseDevice(say: (line: string) => void): Promise<'cuda' | 'native' | 'wasm'> {
  const gpu = await openGpuIfAny(say);
  if (!gpu) return chooseCpu(say);
  await gpu.close();
  return 'cuda';
}

/** native if it works, else wasm. `say` receives the reason, and what a compiler would gain. */
async function chooseCpu(say: (line: string) => void): Promise<'native' | 'wasm'> {
  const missing = missingSources();
  if (missing) {
    const [why] = missing.message.split('\n');
    say(
      `${why}: running on the wasm device, where a step takes about ${WASM_SLOWDOWN} times as long; ` +
        (missing.hint ?? ''),
    );
    return 'wasm';
  }
  try {
    await (await openNative(1, say)).close();
    return 'native';
  } catch (error) {
    const [why] = (error instanceof Error ? error.message : String(error)).split('\n');
    say(
      error instanceof UserError
        ? `${why}: running on the wasm device; with gcc or clang a step would be about ${WASM_SLOWDOWN} times faster`
        : `the native device does not work here (${why}): running on the wasm device, where a step takes about ` +
            `${WASM_SLOWDOWN} times as long`,
    );
    return 'wasm';
  }
}
