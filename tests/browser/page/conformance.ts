// The conformance suite without anything from Node: the cases of one family, on the wasm device of this thread (a
// page's or a worker's).
import { WasmDevice } from '../../../src/device/wasm/wasm.ts';
import { all } from '../../conformance/cases/index.ts';
import { families as graphs } from '../../conformance/cases/graphs.ts';
import { checkDraws, title, type Draws } from '../../conformance/draws.ts';
import { checkDevices } from '../../conformance/harness.ts';

const families = new Map([...all, ...graphs].map((f) => [title(f), f]));
let device: Promise<WasmDevice> | undefined;

/** The number of the device's threads, and whether its multiply-add is fused. */
export async function describe(threads: number): Promise<string> {
  device ??= WasmDevice.open(threads, { memory: 256 << 20 });
  return (await device).info.description;
}

/** The failure in the family with this title; null if there was none. */
export async function check(name: string, draws: Draws): Promise<string | null> {
  const family = families.get(name),
    opened = await device;
  if (!family || !opened) return `no family ${name}, or no device`;
  try {
    await checkDraws(family, draws, (c, seed) => checkDevices(c, seed, new Map([['wasm', opened]])));
    return null;
  } catch (error) {
    const { message, cause } = error as Error;
    return cause instanceof Error ? `${message}\n${cause.message}` : message;
  }
}
