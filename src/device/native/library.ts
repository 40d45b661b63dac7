// The compiled kernels of the native device: emits C for new kernels, compiles it in files of at most 8 kernels, and
// finds compiled ones on disk.
import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { hashHex } from '../../base/hash.ts';
import { emitFile, functionName } from '../../emit/c/kernel.ts';
import type { KernelSource } from '../device.ts';
import { inFiles } from '../files.ts';
import { isNormals, NORMALS, type NormalsSource } from '../normals.ts';
import { emitterHash, headersHash, type Driver } from './driver.ts';
import { compileShared, type Toolchain } from './toolchain.ts';

/** If another process has added nothing for this long, this one compiles. */
const WAIT_MS = 60_000;
const LOOK_MS = 20;
/** Flags in addition to those of the toolchain: integer overflow in kernels wraps modulo 2^32, as on every device. */
const FLAGS = ['-fwrapv'];

/** Addresses of a kernel's two functions (runtime.h). */
export interface NativeKernel {
  readonly tasks: number;
  readonly run: number;
}

export class KernelLibrary {
  readonly #tool: Toolchain;
  readonly #driver: Driver;
  readonly #kernels: Map<string, NativeKernel>;
  readonly #objects = new Map<string, number>();
  readonly #salt: string;
  /**
   * Together with a kernel's key, it identifies the kernel's C text, so a compiled kernel is found without emitting C.
   */
  readonly #version: string;
  /** Another process of this host compiles the same kernels: this one waits for its objects. */
  readonly #waits: boolean;

  constructor(tool: Toolchain, driver: Driver, waits = false) {
    this.#waits = waits;
    this.#tool = tool;
    this.#driver = driver;
    this.#kernels = new Map([[NORMALS.key, driver.normals]]);
    this.#salt = hashHex(tool.id + FLAGS.join(' ') + headersHash());
    this.#version = hashHex(this.#salt + emitterHash());
  }

  get(key: string): NativeKernel {
    const found = this.#kernels.get(key);
    if (!found) throw new Error(`kernel ${key} was not compiled`);
    return found;
  }

  async add(kernels: readonly (KernelSource | NormalsSource)[]): Promise<void> {
    const fresh = new Map<string, KernelSource>();
    for (const k of kernels) if (!isNormals(k) && !this.#kernels.has(k.key)) fresh.set(k.key, k);
    let missing = [...fresh.values()].filter((source) => !this.#find(source));
    if (this.#waits) missing = await this.#waitFor(missing);
    await inFiles(missing, availableParallelism(), (file) => this.#compile(file));
  }

  /** Takes a kernel from disk, if it is there. */
  #find(source: KernelSource): boolean {
    const path = this.#driver.cache.find(this.#name(source));
    return path !== null && this.#take(source.key, path);
  }

  /** Waits while another process adds kernels to the folder. Returns those that do not come. */
  async #waitFor(missing: KernelSource[]): Promise<KernelSource[]> {
    const { cache } = this.#driver;
    for (let end = performance.now() + WAIT_MS; missing.length > 0 && cache.isShared && performance.now() < end;) {
      await sleep(LOOK_MS);
      const left = missing.filter((source) => !this.#find(source));
      if (left.length < missing.length) end = performance.now() + WAIT_MS;
      missing = left;
    }
    return missing;
  }

  /** Writes the C text beside the object, because messages of the compiler refer to it. */
  async #compile(file: readonly KernelSource[]): Promise<void> {
    const { cache, include } = this.#driver,
      text = emitFile(file),
      name = `kernels_${hashHex(this.#salt + text)}`;
    const made = await cache.load(
      name,
      async (target) => compileShared(this.#tool, [await cache.write(`${name}.c`, text)], include, target, FLAGS),
      (path) => {
        for (const { key } of file) if (!this.#take(key, path)) throw new Error(`${path}: ${this.#driver.error()}`);
        return path;
      },
    );
    await Promise.all(file.map((kernel) => cache.link(this.#name(kernel), made)));
  }

  #name({ key }: KernelSource): string {
    return `k_${key}_${this.#version}`;
  }

  #take(key: string, object: string): boolean {
    const library = this.#objects.get(object) ?? this.#driver.open(object);
    if (library === 0) return false;
    this.#objects.set(object, library);
    const name = functionName(key);
    const kernel = { tasks: this.#driver.symbol(library, `${name}_tasks`), run: this.#driver.symbol(library, name) };
    if (kernel.tasks === 0 || kernel.run === 0) return false;
    this.#kernels.set(key, kernel);
    return true;
  }
}
