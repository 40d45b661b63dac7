// The devices that conformance tests run on in Node, and the seed and number of random cases.
import type { Device } from '../../src/device/device.ts';
import { NativeDevice } from '../../src/device/native/native.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import { findToolchain } from '../../src/device/native/toolchain.ts';
import { GPU } from '../../src/schedule/gpu.ts';
import { NATIVE, type GpuTarget } from '../../src/schedule/target.ts';
import { Interpreter } from '../interpreter/device.ts';
import type { Draws } from './draws.ts';

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

export const DEVICES: readonly DeviceEntry[] = [...OWN, ...(process.env['DYNAMOE_FULL'] ? INTERPRETERS : [])];

/**
 * Devices whose results must have equal bits; native and interpreters only if this WebAssembly engine rounds a
 * multiply-add once.
 */
export const SAME_BITS: readonly DeviceEntry[] = [
  ...OWN,
  { name: 'wasm with 1 thread', skip: () => Promise.resolve(null), open: () => WasmDevice.open(1) },
  ...INTERPRETERS,
];

/**
 * DYNAMOE_TEST_SEED is the seed of the random cases (a number or 'random'; default 1); DYNAMOE_TEST_RUNS multiplies
 * their number.
 */
export function drawsFromEnv(): Draws {
  const { DYNAMOE_TEST_SEED: seed = '1', DYNAMOE_TEST_RUNS: times = '1' } = process.env;
  return { seed: seed === 'random' ? Math.floor(Math.random() * 2 ** 31) : Number(seed), times: Number(times) };
}
