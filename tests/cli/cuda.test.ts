// `--device cuda`, over the stand-in for libcuda: a run has the losses of native and can be evaluated; what a GPU does
// not do is refused by name.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { noStandin } from '../support/cuda/standin.ts';
import { temporaryFolder } from '../io/folder.ts';
import { command, eventsOf, lossesOf, TINY, writeText } from './command.ts';

const skip = noStandin;

test('train, resume, eval and generate on a GPU, with the losses of native', { skip }, async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    flags = [...TINY, '--data', data, '--steps', '4', '--json', '--recompile', 'off', '--eval-every', '0'],
    run = async (device: string): Promise<{ losses: Map<number, unknown>; out: string; stdout: string }> => {
      const out = join(folder, device.replace(':', '-')),
        { code, stdout, stderr } = await command('train', ...flags, '--device', device, '--out', out);
      assert.equal(code, 0, stderr);
      return { losses: lossesOf(stdout), out, stdout };
    };
  const native = await run('native'),
    gpu = await run('cuda:0');
  assert.deepEqual(gpu.losses, native.losses);
  const [start] = eventsOf(gpu.stdout).filter((e) => e.event === 'start');
  assert.match(String(start['device']), /^GPU 0, Stand-in 0, compute capability 9\.9/);
  const [onGpu, onCpu] = await Promise.all([
    command('eval', gpu.out, '--data', data, '--device', 'cuda', '--json'),
    command('eval', native.out, '--data', data, '--device', 'native', '--json'),
  ]);
  assert.equal(onGpu.code, 0, onGpu.stderr);
  const loss = (stdout: string): unknown => eventsOf(stdout).find((e) => 'loss' in e)?.['loss'];
  assert.equal(loss(onGpu.stdout), loss(onCpu.stdout));
  const text = await command('generate', gpu.out, '--device', 'cuda', '--tokens', '5', '--seed', '1');
  assert.equal(text.code, 0, text.stderr);
});

test('threads and unknown GPUs are refused by name', { skip }, async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    refused = async (...flags: readonly string[]): Promise<string> => {
      const { code, stderr } = await command('train', ...TINY, '--data', data, '--out', join(folder, 'run'), ...flags);
      assert.notEqual(code, 0);
      return stderr;
    };
  assert.match(
    await refused('--device', 'cuda:0', '--threads', '2'),
    /--threads has no effect here: a GPU has its own/,
  );
  assert.match(
    await refused('--device', 'gpu'),
    /Allowed choices are auto, native, wasm, cuda, reference; a certain GPU/,
  );
  assert.match(
    await refused('--device', 'cuda:7'),
    /device cuda:7: there is no such GPU\n {2}hint: cuda:0 is Stand-in 0/,
  );
});
