// What a GPU has to compute, as a CPU did: hashes of conformance cases, and lines of training runs. The native device
// made them: `node --conditions=dynamoe-source bench/gpu/expected.ts --write`; without a flag, it tells whether they
// are still true (tests/bench/gpu.test.ts does so for a part of them).
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openNative } from '../../src/session/node.ts';
import { trained, WORKS } from '../../tests/ranks/train.ts';
import { compileGroups, GROUPS, hashesOf, type Group } from './cases.ts';

export interface Expected {
  /** By the name of a group of conformance cases: a hash for each case. */
  readonly cases: Readonly<Record<string, string>>;
  /** By the name of a training run (tests/ranks/train.ts). */
  readonly training: Readonly<Record<string, string>>;
}

const FILE = join(import.meta.dirname, 'expected.json');

export const readExpected = (): Expected => JSON.parse(readFileSync(FILE, 'utf8')) as Expected;

/** The hashes of these groups on the native device. */
export async function casesOnCpu(groups: readonly Group[]): Promise<Record<string, string>> {
  const device = await openNative(2),
    hashes: Record<string, string> = {};
  await compileGroups(groups, device);
  for (const group of groups) hashes[group.name] = await hashesOf(group, device);
  await device.close();
  return hashes;
}

if (import.meta.main) {
  const training: Record<string, string> = {};
  for (const name of Object.keys(WORKS)) training[name] = await trained(name);
  const text = `${JSON.stringify({ cases: await casesOnCpu(GROUPS), training } satisfies Expected, null, 2)}\n`;
  if (process.argv.includes('--write')) writeFileSync(FILE, text);
  else if (text !== readFileSync(FILE, 'utf8')) {
    console.error(`the native device computes something else than ${FILE} says: --write writes it again`);
    process.exitCode = 1;
  }
}
