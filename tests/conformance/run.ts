// Turns families of cases into tests: one for the gradients, one for each device, one for the same bits on all devices.
import { after, test } from 'node:test';
import fc from 'fast-check';
import type { Device } from '../../src/device/device.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import { DEVICES, drawsFromEnv, SAME_BITS, type DeviceEntry } from './devices.ts';
import { checkDraws, title } from './draws.ts';
import { checkBits, checkDevice, checkGradients } from './harness.ts';
import type { Family } from './shapes.ts';

const draws = drawsFromEnv();

export function runFamilies(families: readonly Family[]): void {
  const opened = new Map<string, Promise<Device>>();
  const open = (entry: DeviceEntry): Promise<Device> => {
    const device = opened.get(entry.name) ?? entry.open();
    opened.set(entry.name, device);
    return device;
  };
  after(async () => { for (const device of opened.values()) (await device).close(); });

  for (const f of families) {
    test(`${title(f)}: gradients`, () => {
      const numRuns = Math.min(12, f.differences ?? f.runs ?? 12) * draws.times;
      fc.assert(fc.property(f.cases, fc.nat(), (c, s) => { checkGradients(c, s); }), { seed: draws.seed, numRuns });
    });
  }
  for (const entry of DEVICES) {
    for (const f of families) {
      test(`${title(f)}: ${entry.name}`, async (t) => {
        const reason = await entry.skip();
        if (reason !== null) { t.skip(reason); return; }
        const device = await open(entry);
        await checkDraws(f, draws, (c, s) => checkDevice(c, s, device));
      });
    }
  }
  for (const f of families) {
    test(`${title(f)}: the same bits on all devices`, async (t) => {
      const devices = new Map<string, Device>(), without: string[] = [];
      for (const entry of SAME_BITS) {
        const reason = await entry.skip();
        if (reason === null) devices.set(entry.name, await open(entry)); else without.push(`${entry.name}: ${reason}`);
      }
      const wasm = devices.get('wasm');
      if (wasm instanceof WasmDevice && !wasm.fused && devices.delete('native')) without.push('native: this engine rounds products before it adds');
      if (without.length > 0) t.diagnostic(`without ${without.join(', ')}`);
      await checkDraws(f, draws, (c, s) => checkBits(c, s, devices));
    });
  }
}
