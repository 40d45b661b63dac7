// A rank that joins the others, loads a program, and leaves.
import { openRanks } from '../../../../src/device/native/mpi.ts';
import { RanksError } from '../../../../src/device/ranks.ts';
import { NativeDevice } from '../../../../src/device/native/native.ts';
import { GraphBuilder } from '../../../../src/graph/builder.ts';
import { mul } from '../../../../src/graph/ops/elementwise/mul.ts';
import { ops } from '../../../../src/graph/ops/index.ts';
import { scalar } from '../../../../src/graph/tensor.ts';
import { compileGraph } from '../../../../src/pipeline.ts';

try {
  const ranks = await openRanks();
  if (ranks) {
    const device = await NativeDevice.open(1, undefined, ranks),
      b = new GraphBuilder(ops),
      x = b.input('input', 'x', { dtype: 'float32', shape: [8] });
    b.output('y', mul(x, scalar(x, 2)));
    await device.compile(compileGraph(b.build(), device.target).kernels);
    await device.close();
    ranks.close();
  }
  console.log(ranks ? `rank ${ranks.rank}: ${ranks.description}` : 'alone');
} catch (error) {
  if (!(error instanceof RanksError && error.shared)) console.error(String(error));
  process.exitCode = 1;
}
