// The run that sigkill.test.ts kills. It replaces training: its state after a step depends on all steps before. `node
// sigkill-run.ts FOLDER STEPS` starts or resumes a run, prints a line when it begins, and saves every 3 steps a tensor
// that is large enough to be written incompletely.
import { openRun } from '../../src/io/run-folder.ts';
import { loadCheckpoint } from '../../src/io/checkpoint-file.ts';

const SIZE = 1 << 18;
const [folder, steps] = [process.argv[2], Number(process.argv[3])];
process.stdout.write('begin\n');
const run = await openRun(folder, { resume: true, settings: { steps } });
let state = new Int32Array(SIZE).fill(1);
let step = 0;
if (run.checkpoint !== undefined) {
  const { meta, file } = await loadCheckpoint(run.checkpoint.path);
  state = (await file.read('state')).data as Int32Array<ArrayBuffer>;
  await file.close();
  step = meta.step;
}
while (step < steps) {
  step++;
  state = state.map((v, i) => (Math.imul(v, 48271) + step + i) | 0);
  run.append({ event: 'step', step, loss: state[0], check: state.reduce((a, b) => (a + b) | 0, 0) });
  if (step % 3 === 0) {
    await run.save({
      tensors: [{ name: 'state', dtype: 'int32', shape: [SIZE], data: () => state }],
      meta: { step, seed: 1, config: {}, optimizer: {}, data: {} },
    });
  }
  await new Promise((resolve) => {
    setTimeout(resolve, 1);
  });
}
await run.close();
