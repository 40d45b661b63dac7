// The kernels a native device has: emits C for new ones, compiles it in files of at most 8 kernels, and finds them again on disk.
import { rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { hashHex } from '../../base/hash.ts';
import { emitFile, functionName } from '../../emit/c/kernel.ts';
import type { KernelSource } from '../device.ts';
import { cached, readCached, writeCached } from './cache.ts';
import { emitterHash, headersHash, type Driver } from './driver.ts';
import { compileShared, type Toolchain } from './toolchain.ts';

const PER_FILE = 8;

/** Addresses of a kernel's two functions. */
export interface NativeKernel { readonly tasks: number; readonly run: number }

export class KernelLibrary {
  readonly #tool: Toolchain;
  readonly #driver: Driver;
  readonly #kernels = new Map<string, NativeKernel>();
  readonly #objects = new Map<string, number>();
  readonly #salt: string;
  /** With a kernel's key, it stands for the kernel's text, which need not be made to find what came of it. */
  readonly #version: string;

  constructor(tool: Toolchain, driver: Driver) {
    this.#tool = tool;
    this.#driver = driver;
    this.#salt = hashHex(tool.id + headersHash());
    this.#version = hashHex(this.#salt + emitterHash());
  }

  get(key: string): NativeKernel {
    const found = this.#kernels.get(key);
    if (!found) throw new Error(`kernel ${key} was not compiled`);
    return found;
  }

  async add(kernels: readonly KernelSource[]): Promise<void> {
    const fresh = new Map(kernels.filter((k) => !this.#kernels.has(k.key)).map((k) => [k.key, k]));
    // A small file per kernel names the object that holds it.
    const objects = await Promise.all([...fresh.values()].map(async (source) => ({ source, object: await readCached(this.#driver.folder, this.#reference(source)) })));
    const missing = objects.flatMap(({ source, object }) => (object === null || !this.#take(source.key, object) ? [source] : []));
    const files: KernelSource[][] = [];
    for (let i = 0; i < missing.length; i += PER_FILE) files.push(missing.slice(i, i + PER_FILE));
    let next = 0;
    const worker = async (): Promise<void> => {
      for (let file = files[next++]; file; file = files[next++]) await this.#compile(file);
    };
    await Promise.all(Array.from({ length: Math.min(files.length, availableParallelism()) }, worker));
  }

  /** The C text stands beside the object, so that a compiler's message can name it. */
  async #compile(file: readonly KernelSource[]): Promise<void> {
    const text = emitFile(file), folder = this.#driver.folder, name = `kernels_${hashHex(this.#salt + text)}`;
    const source = await writeCached(folder, `${name}.c`, text);
    const make = (): Promise<string> => cached(folder, `${name}.so`, (target) => compileShared(this.#tool, [source], this.#driver.include, target));
    const path = await make();
    if (!this.#take(file[0].key, `${name}.so`)) {
      // Damaged, or of the same name by accident: once more.
      await rm(path, { force: true });
      await make();
    }
    for (const k of file) {
      if (!this.#take(k.key, `${name}.so`)) throw new Error(`${path}: ${this.#driver.error()}`);
      await rm(join(folder, this.#reference(k)), { force: true });
      await writeCached(folder, this.#reference(k), `${name}.so`);
    }
  }

  #reference({ key }: KernelSource): string { return `k_${key}_${this.#version}.ref`; }

  #take(key: string, object: string): boolean {
    const library = this.#objects.get(object) ?? this.#driver.open(join(this.#driver.folder, object));
    if (library === 0) return false;
    this.#objects.set(object, library);
    const name = functionName(key);
    const kernel = { tasks: this.#driver.symbol(library, `${name}_tasks`), run: this.#driver.symbol(library, name) };
    if (kernel.tasks === 0 || kernel.run === 0) return false;
    this.#kernels.set(key, kernel);
    return true;
  }
}

