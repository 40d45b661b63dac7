// The platform for any JavaScript engine: the wasm and reference devices, no files. More than one thread needs
// SharedArrayBuffer, which a web page has only if it is cross-origin isolated.
import { UserError } from '../base/errors.ts';
import { WasmDevice } from '../device/wasm/wasm.ts';
import type { Platform } from './platform.ts';

export const web: Platform = {
  open(device, { threads, memory }) {
    switch (device) {
      case 'native':
        throw new UserError('the native device exists only in Node', "device: 'auto' runs on WebAssembly");
      case 'wasm':
      case 'auto':
        return WasmDevice.open(threads, { memory });
      default:
        throw new UserError(`the device ${device} exists only in Node`, "device: 'auto' runs on WebAssembly");
    }
  },
  threads: () => globalThis.navigator?.hardwareConcurrency ?? 1,
  freeMemory: () => Infinity,
  files: null,
};
