// The text of CUDA kernels, run on the CPU, has the bits of the native device: one case of each family,
// drawn from DYNAMOE_TEST_SEED. `npm run ci:full` runs all cases (tests/conformance/devices.ts).
import { after, test } from 'node:test';
import fc from 'fast-check';
import { NativeDevice } from '../../../src/device/native/native.ts';
import { GPU } from '../../../src/schedule/gpu.ts';
import { all } from '../../conformance/cases/index.ts';
import { title } from '../../conformance/draws.ts';
import { compareDevices } from '../../conformance/harness.ts';
import { drawsFromEnv } from '../../support/random-cases.ts';
import { ShimDevice } from '../../support/cuda/shim.ts';
import { noCompiler } from '../../support/toy.ts';

const { seed } = drawsFromEnv(),
  CASES_PER_PROGRAM = 12;

test(`one case of each of ${all.length} families, seed ${seed}`, { skip: noCompiler }, async () => {
  const native = await NativeDevice.open(2),
    // The size of a product's tiles depends on the number of blocks.
    shim = await ShimDevice.open(...(seed % 2 === 0 ? [] : [GPU]));
  after(() => native.close());
  const cases = all.flatMap((f) => fc.sample(f.cases, { seed, numRuns: 1 }).map((c) => ({ name: title(f), c })));
  for (let at = 0; at < cases.length; at += CASES_PER_PROGRAM)
    await compareDevices(cases.slice(at, at + CASES_PER_PROGRAM), seed + at, native, shim);
});
