// What a machine may lack, which GPU a name means, and what `auto` chooses: each in one line with a hint.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CudaDevice } from '../../../src/device/cuda/cuda.ts';
import { copyKernel } from '../../../src/schedule/copy.ts';
import { schedule } from '../../../src/schedule/schedule.ts';
import { chooseDevice, node, openCuda } from '../../../src/session/node.ts';
import { noStandin } from '../../support/cuda/standin.ts';

const skip = noStandin;

/** Calls `work` with other variables in the environment; undefined: without. */
async function withEnv<T>(env: Readonly<Record<string, string | undefined>>, work: () => Promise<T>): Promise<T> {
  const before = Object.fromEntries(Object.keys(env).map((name) => [name, process.env[name]])),
    set = (values: Readonly<Record<string, string | undefined>>): void => {
      for (const [name, value] of Object.entries(values))
        if (value === undefined) delete process.env[name];
        else process.env[name] = value;
    };
  set(env);
  try {
    return await work();
  } finally {
    set(before);
  }
}

const ABSENT: readonly (readonly [what: string, env: Record<string, string | undefined>, said: RegExp])[] = [
  [
    'a library that is not there',
    { DYNAMOE_CUDA_DRIVER: '/nowhere/libcuda.so' },
    /^UserError: device cuda: the library \/nowhere\/libcuda\.so that DYNAMOE_CUDA_DRIVER names cannot be loaded: /,
  ],
  [
    'a library that is another one',
    { DYNAMOE_CUDA_DRIVER: 'libm.so.6' },
    /^UserError: device cuda: libm\.so\.6 has no function cu\w+\n {2}hint: it is not the library of an NVIDIA driver/,
  ],
  [
    'an old driver',
    { DYNAMOE_STANDIN_VERSION: '11080' },
    /^UserError: device cuda: the NVIDIA driver supports CUDA 11\.8, and 12\.0 is needed\n {2}hint: install driver 525/,
  ],
  [
    'no GPU',
    { DYNAMOE_STANDIN_GPUS: '0' },
    /^UserError: device cuda: the NVIDIA driver finds no GPU\n {2}hint: nvidia-smi lists GPUs; CUDA_VISIBLE/,
  ],
  [
    'the library for linking',
    { DYNAMOE_STANDIN_FAIL: 'cuInit:1:34' },
    /^UserError: device cuda: the NVIDIA driver could not be started: cuInit: .*\(34\).*\n {2}hint: this is the lib/,
  ],
  [
    'an old GPU',
    { DYNAMOE_STANDIN_CAPABILITY: '61' },
    /^UserError: device cuda: Stand-in 0 has compute capability 6\.1, and 7\.0 is needed\n {2}hint: device .nat/,
  ],
];

for (const [what, env, said] of ABSENT)
  test(`${what} is told in one line with a hint`, { skip }, () =>
    withEnv(env, async () => {
      await assert.rejects(openCuda(), (error: Error) => {
        assert.match(String(error), said);
        assert.match(String(error), /device 'native' runs on the CPU$/);
        return true;
      });
    }),
  );

test('no driver is told, and `auto` says nothing about it', { skip }, (t) =>
  withEnv({ DYNAMOE_CUDA_DRIVER: undefined }, async () => {
    const error = await openCuda().then(
      (device) => device.close(),
      (reason: unknown) => String(reason),
    );
    if (error === undefined) {
      t.skip('this machine has a GPU');
      return;
    }
    assert.match(error, /device cuda: no NVIDIA driver was found \(libcuda\.so\.1\)\n {2}hint: install|no GPU/);
    const said: string[] = [];
    assert.equal(await chooseDevice((line) => said.push(line)), 'native');
    assert.equal(said.length, 0);
  }),
);

test('names of GPUs: the first, by number, by UUID', { skip }, () =>
  withEnv({ DYNAMOE_STANDIN_GPUS: '3' }, async () => {
    const found = {
      cuda: 0,
      'cuda:0': 0,
      'cuda:2': 2,
      'cuda:GPU-10111213-1415-1617-1819-1a1b1c1d1e1f': 1,
      'cuda:gpu-2021': 2,
    };
    for (const [name, index] of Object.entries(found)) {
      const device = await CudaDevice.open(name);
      assert.match(
        device.info.description,
        new RegExp(`^GPU ${index}, Stand-in ${index}, compute capability 9\\.9, 2 m`),
      );
      await device.close();
    }
    const refused: Record<string, RegExp> = {
      'cuda:3':
        /device cuda:3: there is no such GPU\n {2}hint: cuda:0 is Stand-in 0 \(compute capability 9\.9, GPU-0001/,
      'cuda:GPU-ff': /device cuda:GPU-ff: there is no such GPU\n {2}hint: cuda:0 is .*; cuda:1 is .*; cuda:2 is /,
      'cuda:GPU-': /device cuda:GPU-: expected cuda, cuda:INDEX or cuda:GPU-UUID\n {2}hint: cuda:0 is/,
      'cuda:first': /device cuda:first: expected cuda, cuda:INDEX or cuda:GPU-UUID/,
    };
    for (const [name, said] of Object.entries(refused)) await assert.rejects(CudaDevice.open(name), said);
  }),
);

test('without NVRTC, kernels that were compiled before run, and new ones are refused', { skip }, async () => {
  const kernelOf = (device: CudaDevice, count: number): Parameters<CudaDevice['compile']>[0][0] => {
    const { key, kernel } = copyKernel({ dtype: 'int32', shape: [count] });
    return { key, kernel: schedule(kernel, device.target) };
  };
  const first = await CudaDevice.open();
  await first.compile([kernelOf(first, 77)]);
  await first.close();
  await withEnv({ DYNAMOE_NVRTC: '/nowhere/libnvrtc.so' }, async () => {
    const device = await CudaDevice.open();
    await device.compile([kernelOf(device, 77)]);
    // A size that no other run has compiled.
    await assert.rejects(
      device.compile([kernelOf(device, 1_000_000 + Math.floor(Math.random() * 1e9))]),
      /NVRTC, which compiles kernels, was not found \(\/nowhere\/libnvrtc\.so\)\n {2}hint: install it \(pip/,
    );
    await device.close();
    const said: string[] = [];
    assert.equal(await chooseDevice((line) => said.push(line)), 'native');
    assert.match(
      said.join('\n'),
      /^device cuda: NVRTC, which compiles kernels, was not found \(.*\): running on the CPU$/,
    );
  });
  // The compiler does not know a GPU.
  await withEnv({ DYNAMOE_STANDIN_CAPABILITY: '80' }, async () => {
    const device = await CudaDevice.open();
    await assert.rejects(
      device.checkCompiler(),
      /NVRTC 13\.0 does not know GPUs of compute capability 8\.0\n {2}hint: it knows 9/,
    );
    await device.close();
  });
});

test('`auto` is the GPU, says so, and is the CPU where threads are given', { skip }, async () => {
  const said: string[] = [];
  const request = { threads: 2, memory: 1e9, say: (line: string) => said.push(line) };
  const gpu = await node.open('auto', request);
  assert.equal(gpu.info.name, 'cuda');
  await gpu.close();
  assert.match(said.join('\n'), /^running on GPU 0, Stand-in 0, .*CUDA 13\.0; device 'native' runs on the CPU$/);
  said.length = 0;
  const cpu = await node.open('auto', { ...request, onCpu: true });
  assert.equal(cpu.info.name, 'native');
  await cpu.close();
  for (const env of [{ DYNAMOE_STANDIN_GPUS: '0' }, { DYNAMOE_STANDIN_FAIL: 'cuInit:1:34' }])
    await withEnv(env, async () => {
      assert.equal(await chooseDevice((line) => said.push(line)), 'native');
    });
  assert.equal(said.length, 0);
  await withEnv({ DYNAMOE_STANDIN_VERSION: '11080' }, () => chooseDevice((line) => said.push(line)));
  assert.match(said.join('\n'), /^device cuda: the NVIDIA driver supports CUDA 11\.8, .*: running on the CPU$/);
});
