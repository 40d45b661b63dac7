// The conformance cases whose results on a GPU are compared with hashes from a CPU: a GPU machine then needs no C
// compiler. float64 is left out: no device promises its bits.
import fc from 'fast-check';
import { hashHex } from '../../src/base/hash.ts';
import type { TypedArray } from '../../src/base/dtype.ts';
import type { Device } from '../../src/device/device.ts';
import { all } from '../../tests/conformance/cases/index.ts';
import { title } from '../../tests/conformance/draws.ts';
import { kernelsOf, resultsOf, type Case } from '../../tests/conformance/harness.ts';

/** Cases of each family, and their seed. Others need other hashes: `node bench/gpu/expected.ts --write`. */
const EACH = 3,
  SEED = 2026;

/** Cases of one kind. */
export interface Group {
  readonly name: string;
  readonly cases: readonly Case[];
}

export const GROUPS: readonly Group[] = all
  .map((family) => ({
    name: title(family),
    cases: fc
      .sample(family.cases, { seed: SEED, numRuns: EACH })
      .filter(({ inputs }) => inputs.every((input) => input.dtype !== 'float64')),
  }))
  .filter(({ cases }) => cases.length > 0)
  // Two families may have one title.
  .map((group, i, groups) => ({
    ...group,
    name: groups.findIndex(({ name }) => name === group.name) < i ? `${group.name} again` : group.name,
  }));

/** Compiles the kernels of all cases together. */
export const compileGroups = (groups: readonly Group[], device: Device): Promise<void> =>
  device.compile(groups.flatMap(({ cases }) => cases.flatMap((c) => kernelsOf(c, device.target))));

/** A hash for each case, which stands for the bits of all its results. Any NaN counts as the same one. */
export async function hashesOf({ cases }: Group, device: Device): Promise<string> {
  const hashes: string[] = [];
  for (const c of cases) {
    const results = await resultsOf(c, SEED, device),
      text = results.map(({ name, type, got }) => `${name} ${type.dtype} ${bitsOf(got)}`).join('\n');
    hashes.push(hashHex(text).slice(0, 8));
  }
  return hashes.join(' ');
}

function bitsOf(values: TypedArray): string {
  const own = values.slice(),
    bytes = new Uint8Array(own.buffer, own.byteOffset, own.byteLength);
  own.forEach((x, i) => {
    if (Number.isNaN(x)) own[i] = NaN;
  });
  return Buffer.from(bytes).toString('base64');
}
