// Turns families of cases into tests: one for the gradients, one for each device.
import { after, test } from 'node:test';
import fc from 'fast-check';
import type { Device } from '../../src/device/device.ts';
import { DEVICES } from './devices.ts';
import { checkDevice, checkGradients } from './harness.ts';
import type { Family } from './shapes.ts';

/** The same draws each time unless DYNAMOE_TEST_SEED says otherwise ('random', or a number); DYNAMOE_TEST_RUNS multiplies them. */
const env = process.env['DYNAMOE_TEST_SEED'];
const seed = env === undefined ? 1 : env === 'random' ? Math.floor(Math.random() * 2 ** 31) : Number(env);
const times = Number(process.env['DYNAMOE_TEST_RUNS'] ?? 1);

export function runFamilies(families: readonly Family[]): void {
  const title = (f: Family): string => (f.name ? `${f.op}, ${f.name}` : f.op);
  for (const f of families) {
    test(`${title(f)}: gradients`, () => {
      fc.assert(fc.property(f.cases, fc.nat(), (c, s) => { checkGradients(c, s); }), { seed, numRuns: 12 * times });
    });
  }
  for (const entry of DEVICES) {
    let opened: Promise<Device> | undefined;
    after(async () => { (await opened)?.close(); });
    for (const f of families) {
      test(`${title(f)}: ${entry.name}`, async (t) => {
        const reason = await entry.skip();
        if (reason !== null) { t.skip(reason); return; }
        opened ??= entry.open();
        const device = await opened;
        await fc.assert(fc.asyncProperty(f.cases, fc.nat(), (c, s) => checkDevice(c, s, device)), { seed, numRuns: (f.runs ?? 8) * times });
      });
    }
  }
}
