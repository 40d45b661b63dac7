// The devices that conformance tests run on in Node.
import type { Device } from '../../src/device/device.ts';
import { NativeDevice } from '../../src/device/native/native.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import { findToolchain } from '../../src/device/native/toolchain.ts';
import { GPU } from '../../src/schedule/gpu.ts';
import { NATIVE, type GpuTarget } from '../../src/schedule/target.ts';
import { Interpreter } from '../interpreter/device.ts';
import { ShimDevice } from '../support/cuda/shim.ts';

export interface DeviceEntry {
  /** How many cases of each family the device computes, except with DYNAMOE_FULL; all if there is no number. */
  readonly cases?: number;
  readonly name: string;
  /** Why the device cannot run here; null if it can. */
  skip(): Promise<string | null>;
  open(): Promise<Device>;
}

const OWN: readonly DeviceEntry[] = [
  { name: 'wasm', skip: () => Promise.resolve(null), open: () => WasmDevice.open(2) },
  {
    name: 'native',
    skip: async () => ((await findToolchain()) ? null : 'no C compiler'),
    open: () => NativeDevice.open(2),
  },
];

/** Few threads and blocks, so that they take several turns. */
export const SMALL_GPU: GpuTarget = { ...GPU, threads: 64, blocks: 3 };

/**
 * They run what leaves the schedule, statement by statement, and are slow. In everyday runs they compute the first two
 * cases of each family, and are left out of the longer tests; `npm run ci:full` gives them everything.
 */
export const INTERPRETERS: readonly DeviceEntry[] = [NATIVE, SMALL_GPU].map((target) => ({
  name: `interpreter (${target.kind})`,
  cases: 2,
  skip: () => Promise.resolve(null),
  open: () => Promise.resolve(new Interpreter(target)),
}));

/** The text of CUDA kernels, run on the CPU. Everyday runs give it a share of the cases in tests/device/cuda. */
export const CUDA_TEXT: DeviceEntry = {
  name: 'CUDA text on the CPU',
  skip: async () => ((await findToolchain()) ? null : 'no C compiler'),
  open: () => ShimDevice.open(),
};

export const DEVICES: readonly DeviceEntry[] = [
  ...OWN,
  ...(process.env['DYNAMOE_FULL'] ? [...INTERPRETERS, CUDA_TEXT] : []),
];

/**
 * Devices whose results must have equal bits; native and interpreters only if this WebAssembly engine rounds a
 * multiply-add once.
 */
export const SAME_BITS: readonly DeviceEntry[] = [
  ...OWN,
  { name: 'wasm with 1 thread', skip: () => Promise.resolve(null), open: () => WasmDevice.open(1) },
  ...INTERPRETERS,
  ...(process.env['DYNAMOE_FULL'] ? [CUDA_TEXT] : []),
];

/** Those whose bits are the native device's: not comparable with a WebAssembly engine that rounds twice. */
export const LIKE_NATIVE: readonly string[] = ['native', CUDA_TEXT.name, ...INTERPRETERS.map((i) => i.name)];
