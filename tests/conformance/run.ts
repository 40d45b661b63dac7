// Makes two tests of each family of cases: one of the gradients, one of the results on all devices.
import { after, test } from 'node:test';
import fc from 'fast-check';
import type { Device } from '../../src/device/device.ts';
import { LIKE_NATIVE, SAME_BITS } from './devices.ts';
import { drawsFromEnv } from '../support/random-cases.ts';
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
      let drawn = 0;
      await checkDraws(f, draws, (c, s) => checkDevices(c, s, devicesOf(devices, drawn++), sameBits));
    });
  }
  after(async () => {
    for (const device of (await opened)?.devices.values() ?? []) await device.close();
  });
}

/** The devices that run case number `drawn` of a family. */
function devicesOf(all: ReadonlyMap<string, Device>, drawn: number): ReadonlyMap<string, Device> {
  const few = SAME_BITS.filter(({ cases = Infinity }) => !process.env['DYNAMOE_FULL'] && drawn >= cases);
  return new Map([...all].filter(([name]) => few.every((entry) => entry.name !== name)));
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
  if (wasm?.info.exact.includes('float32') === false) {
    for (const name of LIKE_NATIVE)
      if (sameBits.delete(name))
        unusable.set(name, 'its bits are not compared: this engine rounds products before it adds');
  }
  return { devices, sameBits, unusable };
}
