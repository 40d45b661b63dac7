// Every op in float32, integers and 16-bit floats: the bits of a CPU, by hashes (../expected.ts). With small sizes,
// every fourth group.
import { GROUPS, compileGroups, hashesOf } from '../cases.ts';
import { openGpu } from '../device.ts';
import { readExpected } from '../expected.ts';
import { check, SMALL, tell } from '../report.ts';

const device = await openGpu(),
  expected = readExpected().cases,
  groups = GROUPS.filter((_, i) => !SMALL || i % 12 === 0),
  started = performance.now();
await compileGroups(groups, device);
tell({ figure: 'compiling all kernels', value: (performance.now() - started) / 1000, unit: 's' });
for (const group of groups)
  await check(group.name, async () => {
    const got = await hashesOf(group, device),
      want = expected[group.name];
    if (want === undefined) throw new Error('expected.json has no hashes for it: make it again');
    if (got !== want) throw new Error(`hashes of its cases are ${got}, those of a CPU ${want}`);
  });
await device.close();
