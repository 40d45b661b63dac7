// Sessions on the GPU: training runs (tests/ranks/train.ts) have the bits of a CPU; the captured graph computes what
// single launches compute; without `commit` no state changes; a change of capacities is taken and undone.
import { hostTensor, type Batch } from '../../../src/base/tensor.ts';
import { crossEntropy } from '../../../src/nn/loss.ts';
import { TransformerLM } from '../../../src/nn/transformer.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { ProgramExecutor, type LoadedProgram } from '../../../src/run/program.ts';
import { compile } from '../../../src/session/node.ts';
import type { Session } from '../../../src/session/session.ts';
import { stateBits } from '../../../tests/support/state-bits.ts';
import { trained, WORKS } from '../../../tests/ranks/train.ts';
import { GPU_NAME } from '../device.ts';
import { readExpected } from '../expected.ts';
import { check, SMALL, tell } from '../report.ts';

const expected = readExpected().training;
for (const name of SMALL ? ['dropless', 'spill'] : Object.keys(WORKS).filter((work) => work !== 'long'))
  await check(`training: ${name}`, async () => {
    const got = await trained(name, GPU_NAME);
    if (got !== expected[name]) throw new Error(`it is ${got}, on a CPU ${expected[name]}`);
  });

const SAMPLES = 4,
  TIME = 16;
function batch(step: number): Batch {
  const data = (shift: number): Int32Array =>
    Int32Array.from({ length: SAMPLES * TIME }, (_, i) => ((i + shift) * 7 + step * 5) % 29);
  return { x: hostTensor('int32', [SAMPLES, TIME], data(0)), y: hostTensor('int32', [SAMPLES, TIME], data(1)) };
}

const open = (): Promise<Session> =>
  compile(
    new TransformerLM({
      vocab: 29,
      dModel: 32,
      layers: 2,
      heads: 2,
      context: TIME,
      moe: { experts: 4, topK: 2, hidden: 48, capacity: 2 },
    }),
    { device: GPU_NAME, loss: crossEntropy, optimizer: sgd({ lr: 0.1, clip: 1 }), seed: 5 },
  );

const statesOf = async (session: Session): Promise<string> => JSON.stringify(await stateBits(session));

const session = await open(),
  { executor } = session;
if (!(executor instanceof ProgramExecutor)) throw new Error('a session on a GPU runs programs');
await session.step(batch(0));
const program = (await session.prepare(batch(1))) as LoadedProgram,
  inputs = {
    x: batch(1).x.data,
    y: batch(1).y.data,
    seed: Uint32Array.of(5),
    step: Uint32Array.of(1),
    commit: Int32Array.of(0),
    lr: Float32Array.of(1e-3),
  };
await check('without commit no state changes', async () => {
  const before = await statesOf(session);
  await executor.run(program, inputs);
  if ((await statesOf(session)) !== before) throw new Error('a state has changed');
});
await check('a captured graph computes what single launches compute', async () => {
  const { bound } = program,
    steps = program.program.steps.length;
  const ofGraph = (await executor.run(program, inputs))['loss'].data[0];
  // The inputs are still in the memory of the GPU.
  await bound.run(0, steps >> 1);
  await bound.run(steps >> 1, steps);
  const again = (await executor.run(program, inputs))['loss'].data[0];
  if (!Object.is(ofGraph, again)) throw new Error(`the loss is ${again} after single launches, ${ofGraph} before`);
  const { ns } = await bound.profile();
  tell({ figure: 'kernels of a small step', value: steps, unit: '' });
  tell({ figure: 'their time one after the other', value: ns.reduce((x, y) => x + y, 0) / 1e3, unit: 'us' });
});
await session.close();
