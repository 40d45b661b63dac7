// The platform for Node: the native device where a C compiler is found, the wasm device everywhere, checkpoint files.
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { UserError } from '../base/errors.ts';
import type { NativeDevice } from '../device/native/native.ts';
import type { WasmDevice } from '../device/wasm/wasm.ts';
import { loadCheckpoint, saveCheckpoint } from '../io/checkpoint-file.ts';
import { freeMemory } from '../io/memory.ts';
import type { DeviceRequest, Platform } from './platform.ts';
import { compileOn } from './compile.ts';
import type { Session } from './session.ts';
import type { CompileOptions, Model } from './step.ts';

export const node: Platform = {
  async open(device, request) {
    switch (device) {
      case 'native':
        return openNative(request.threads, request.say);
      case 'wasm':
        return openWasm(request);
      case 'auto':
        return node.open(await chooseDevice(request.say), request);
    }
  },
  threads: () => availableParallelism(),
  freeMemory: () => freeMemory(),
  files: { save: saveCheckpoint, load: loadCheckpoint },
};

/** Builds a session. Memory is checked and taken when the first program is compiled. */
export const compile = (model: Model, options: CompileOptions): Promise<Session> => compileOn(node, model, options);

// Imported only when needed: koffi, the library that calls C, has no binary for some platforms.
export async function openNative(threads: number, say?: (line: string) => void): Promise<NativeDevice> {
  const missing = missingSources();
  if (missing) throw missing;
  const native = await import('../device/native/native.ts');
  return native.NativeDevice.open(threads, say);
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

/**
 * Chooses the device for `auto`: native if it works, else wasm. `say` receives the reason, and what a compiler would
 * gain.
 */
export async function chooseDevice(say: (line: string) => void): Promise<'native' | 'wasm'> {
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
