// What the machine is, and what it can do at most: copying memory, a large product in float32 (ours), and in bfloat16
// where PyTorch is there.
import { spawnSync } from 'node:child_process';
import { matmul } from '../../../src/graph/ops/matmul/matmul.ts';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { scalar, type Tensor } from '../../../src/graph/tensor.ts';
import { Stream } from '../../../src/base/random.ts';
import { compileGraph, loadProgram, traceGraph } from '../../../src/pipeline.ts';
import { ProgramExecutor } from '../../../src/run/program.ts';
import { median } from '../../../src/observe/quantile.ts';
import { openGpu } from '../device.ts';
import { check, SMALL, tell } from '../report.ts';

const started = performance.now(),
  device = await openGpu();
tell({ fact: 'device', is: device.info.description });
tell({ figure: 'opening the device', value: performance.now() - started, unit: 'ms' });
tell({ fact: 'Node', is: process.version });
const executor = new ProgramExecutor(device);

/** Nanoseconds of a program's only large kernel: the median of its runs. */
async function timed(size: number, build: (x: Tensor, y: Tensor) => Tensor): Promise<number> {
  const type = { dtype: 'float32' as const, shape: [size, size] },
    graph = traceGraph({ parameters: new Map(), paths: new Map() }, false, (t) => {
      const [x, y] = ['x', 'y'].map((name) => {
        executor.setState(`${name}${size}`, type, new Stream(1, name).normals(0, 1, new Float32Array(size * size)));
        return t.state(`${name}${size}`, type);
      });
      t.output('z', build(x, y));
    });
  const loaded = await loadProgram(executor, compileGraph(graph, device.target)),
    ns: number[] = [];
  await executor.run(loaded, {});
  for (let i = 0; i < 9; i++) ns.push(Math.max(...(await executor.profile(loaded))));
  return median(ns);
}

await check('copying and products run', async () => {
  const wide = SMALL ? 64 : 8192,
    deep = SMALL ? 48 : 4096;
  const copied = await timed(wide, (x) => add(x, scalar(x, 1)));
  tell({ figure: 'reading and writing memory', value: (8 * wide * wide) / copied, unit: 'GB/s' });
  const product = await timed(deep, (x, y) => matmul(x, y));
  tell({ figure: `float32 product ${deep}^3`, value: (2 * deep ** 3) / product / 1e3, unit: 'TFLOP/s' });
});
await executor.close();
await device.close();

const TORCH = `
import torch, statistics
m = torch.randn(8192, 8192, device='cuda', dtype=torch.bfloat16)
def once():
    a, b = torch.cuda.Event(True), torch.cuda.Event(True)
    a.record(); m @ m; b.record(); torch.cuda.synchronize()
    return a.elapsed_time(b)
[once() for _ in range(3)]
print(2 * 8192 ** 3 / statistics.median(once() for _ in range(15)) / 1e9)
`;
const { status, stdout, stderr } = SMALL
  ? { status: 1, stdout: '', stderr: 'the GPU is only pretended' }
  : spawnSync(process.env['PYTHON'] ?? 'python3', ['-c', TORCH], { encoding: 'utf8' });
if (status === 0) tell({ figure: 'bfloat16 product 8192^3 by PyTorch', value: Number(stdout), unit: 'TFLOP/s' });
else tell({ skip: 'bfloat16 product by PyTorch', why: String(stderr).trimEnd().split('\n').at(-1) ?? '' });
