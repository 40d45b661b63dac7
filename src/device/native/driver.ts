// The C part of the native device, callable from TypeScript: memory, shared objects, the thread pool, and running
// tables of steps.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type Koffi from 'koffi';
import type { TypedArray } from '../../base/dtype.ts';
import { UserError } from '../../base/errors.ts';
import { kernelCache, type KernelCache } from '../cache.ts';
import { loadKoffi } from '../koffi.ts';
import { hashOf, once, sourcesHash } from '../sources.ts';
import { compileShared, type Toolchain } from './toolchain.ts';

/** Addresses are plain numbers: user-space addresses are below 2^53. */
export interface Driver {
  readonly cache: KernelCache;
  readonly include: string;
  alloc(bytes: number): number;
  free(address: number, bytes: number): void;
  copyIn(address: number, data: TypedArray | BigInt64Array, bytes: number): void;
  copyOut(into: TypedArray | BigInt64Array, address: number, bytes: number): void;
  /** The bytes at `address` as the host sees them, without a copy. */
  view(address: number, bytes: number): ArrayBuffer;
  open(path: string): number;
  symbol(library: number, name: string): number;
  error(): string;
  poolCreate(threads: number): number;
  poolDestroy(pool: number): void;
  run(pool: number, steps: number, from: number, to: number, profile: number): Promise<number>;
  /** The same, on the calling thread and synchronously. */
  runNow(...args: Parameters<Driver['run']>): number;
  /** Columns that the micro-kernel of products takes. */
  readonly panel: number;
  fmaPeak(threads: number, seconds: number): Promise<number>;
  memoryPeak(threads: number): Promise<number>;
  /** The compiler, the architecture and its vectors: JSON text (dm_info in driver.h). */
  info(): string;
  /** Addresses of the functions that make initial values (normals.c). */
  readonly normals: { readonly tasks: number; readonly run: number };
}

type Foreign = ReturnType<ReturnType<typeof Koffi.load>['func']>;

const here = dirname(fileURLToPath(import.meta.url));

export const headersHash = once(() => hashOf(sources(/\.h$/).map((f) => readFileSync(f, 'utf8'))));

/** Hash of all sources that decide which C text a kernel becomes. */
export const emitterHash = once(() => sourcesHash(['base', 'kernel', 'schedule', 'emit/clike', 'emit/c']));

const sources = (pattern: RegExp): string[] =>
  readdirSync(here)
    .filter((f) => pattern.test(f))
    .sort()
    .map((f) => join(here, f));

let loaded: Promise<Driver> | undefined;

/** Compiles (once, cached on disk) and loads the driver. */
export function loadDriver(tool: Toolchain, say: (line: string) => void): Promise<Driver> {
  return (loaded ??= load(tool, kernelCache(say)));
}

async function load(tool: Toolchain, cache: KernelCache): Promise<Driver> {
  const koffi = await loadKoffi();
  const files = sources(/\.c$/),
    key = hashOf([tool.id, headersHash(), ...files.map((f) => readFileSync(f, 'utf8'))]);
  const { lib, path } = await cache.load(
    `driver_${key}`,
    (target) => compileShared(tool, files, here, target),
    (file) => {
      try {
        return { lib: koffi.load(file), path: file };
      } catch (error) {
        const [why] = String(error).split('\n');
        throw new UserError(
          `what ${[tool.command, ...tool.args].join(' ')} made cannot be loaded: ${why}`,
          `it must be for this Node's processor (${process.arch}); CC names another compiler`,
          error,
        );
      }
    },
  );
  const run = lib.func('int64_t dm_run(int64_t pool, int64_t steps, int64_t from, int64_t to, int64_t profile)');
  const peak = lib.func('double dm_fma_peak(int threads, double seconds)');
  const memoryPeak = lib.func('double dm_memory_peak(int threads)');
  const later = <T>(f: Foreign, ...args: unknown[]): Promise<T> =>
    new Promise((resolve, reject) => {
      f.async(...args, (error: unknown, value: T) => {
        if (error) reject(error instanceof Error ? error : new Error('a foreign call failed'));
        else resolve(value);
      });
    });
  const number =
    (f: Foreign) =>
    (...args: unknown[]): number =>
      Number(f(...args));
  const open = number(lib.func('int64_t dm_open(const char *path)')),
    symbol = number(lib.func('int64_t dm_sym(int64_t library, const char *name)'));
  const own = open(path);
  return {
    cache,
    include: here,
    open,
    symbol,
    normals: { tasks: symbol(own, 'dm_normals_tasks'), run: symbol(own, 'dm_normals') },
    alloc: number(lib.func('int64_t dm_alloc(int64_t bytes)')),
    free: lib.func('void dm_free(int64_t address, int64_t bytes)') as Driver['free'],
    copyIn: lib.func('void dm_copy_in(int64_t address, const void *data, int64_t bytes)') as Driver['copyIn'],
    copyOut: lib.func('void dm_copy_out(void *into, int64_t address, int64_t bytes)') as Driver['copyOut'],
    view: (address, bytes) => koffi.view(BigInt(address), bytes),
    error: lib.func('const char *dm_error()') as Driver['error'],
    info: lib.func('const char *dm_info()') as Driver['info'],
    poolCreate: number(lib.func('int64_t dm_pool_create(int threads)')),
    poolDestroy: lib.func('void dm_pool_destroy(int64_t pool)') as Driver['poolDestroy'],
    run: async (...args) => Number(await later<number | bigint>(run, ...args)),
    runNow: number(run),
    panel: number(lib.func('int dm_panel_columns()'))(),
    fmaPeak: (...args) => later<number>(peak, ...args),
    memoryPeak: (threads) => later<number>(memoryPeak, threads),
  };
}
