// Makes two tests of each family of cases: one of the gradients, one of the results on all devices.
import { after, test } from 'node:test';
import fc from 'fast-check';
import type { Device } from '../../src/device/device.ts';
import { drawsFromEnv, SAME_BITS } from './devices.ts';
import { checkDraws, title } from './draws.ts';
import { checkDevices, checkGradients } from './harness.ts';
import type { Family } from './shapes.ts';

const draws = drawsFromEnv();

export function runFamilies(families: readonly Family[]): void {
  for (const f of families) {
    test(`${title(f)}: gradients`, () => {
      const numRuns = Math.min(12, f.differences ?? f.runs ?? 12) * draws.times;
      fc.assert(
        fc.property(f.cases, fc.nat(), (c, s) => {
          checkGradients(c, s);
        }),
        { seed: draws.seed, numRuns },
      );
    });
  }
  let opened: Promise<Opened> | undefined;
  const open = (): Promise<Opened> => (opened ??= openAll());
  for (const { name } of SAME_BITS) {
    test(`the device ${name} is tested`, async (t) => {
      const why = (await open()).unusable.get(name);
      if (why !== undefined) t.skip(why);
    });
  }
  for (const f of families) {
    test(`${title(f)}: devices agree with the reference, and with each other in every bit`, async () => {
      const { devices, sameBits } = await open();
      await checkDraws(f, draws, (c, s) => checkDevices(c, s, devices, sameBits));
    });
  }
  after(async () => {
    for (const device of (await opened)?.devices.values() ?? []) await device.close();
  });
}

interface Opened {
  readonly devices: ReadonlyMap<string, Device>;
  /** Names of the devices whose results must have equal bits. */
  readonly sameBits: ReadonlySet<string>;
  /** By the name of a device: why it cannot run here, or why its bits cannot be compared. */
  readonly unusable: ReadonlyMap<string, string>;
}

async function openAll(): Promise<Opened> {
  const devices = new Map<string, Device>(),
    unusable = new Map<string, string>();
  for (const { name, skip, open } of SAME_BITS) {
    const reason = await skip();
    if (reason === null) devices.set(name, await open());
    else unusable.set(name, reason);
  }
  const sameBits = new Set(devices.keys()),
    wasm = devices.get('wasm');
  if (wasm?.info.exact.includes('float32') === false && sameBits.delete('native')) {
    unusable.set('native', 'its bits are not compared: this engine rounds products before it adds');
  }
  return { devices, sameBits, unusable };
}
