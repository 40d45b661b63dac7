// What the device believes of libcuda and NVRTC is what NVIDIA's headers say: functions, layouts, numbers. And NVIDIA's
// NVRTC, which needs no GPU, compiles what is printed for it.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { RESULT } from '../../../src/device/cuda/errors.ts';
import { NODE } from '../../../src/device/cuda/launch.ts';
import {
  ATTRIBUTE,
  declarations,
  EVENT_DISABLE_TIMING,
  STREAM_NON_BLOCKING,
} from '../../../src/device/cuda/libcuda.ts';
import { declarations as nvrtcDeclarations } from '../../../src/device/cuda/nvrtc.ts';
import { normalsText, prelude } from '../../../src/device/cuda/prelude.ts';
import { emitFile, functionName } from '../../../src/emit/cuda/kernel.ts';
import { crossEntropy } from '../../../src/nn/loss.ts';
import { adamW } from '../../../src/optim/adam.ts';
import { compileGraph } from '../../../src/pipeline.ts';
import { GPU } from '../../../src/schedule/gpu.ts';
import { compile } from '../../../src/session/node.ts';
import { headerFolder, realNvrtc } from '../../support/cuda/toolkit.ts';
import { noCompiler, toyBatch, toyLM } from '../../support/toy.ts';

/** Compiles C that uses a header; nothing is linked. Throws with what the compiler says. */
function compileC(folder: string, text: string): void {
  const work = mkdtempSync(join(tmpdir(), 'declarations-')),
    source = join(work, 'a.c');
  try {
    writeFileSync(source, text);
    execFileSync('cc', ['-std=gnu11', '-fsyntax-only', '-Werror', '-I', folder, source], { stdio: 'pipe' });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** C that compiles only if each function has exactly this type. */
const typed = (all: readonly string[]): string =>
  all
    .map((declaration, i) => {
      const [, result, name, types] = /^(\S+) (\w+)\((.*)\)$/.exec(declaration) ?? [];
      return `${result} (*f${i})(${types}) = ${name};`;
    })
    .join('\n');

const equal = (facts: Readonly<Record<string, number>>): string =>
  Object.entries(facts)
    .map(([what, value]) => `_Static_assert((long long)(${what}) == ${value}, "${what}");`)
    .join('\n');

const cuda = headerFolder('cuda.h'),
  nvrtcHeader = headerFolder('nvrtc.h');

test('libcuda: functions, layouts and numbers', { skip: noCompiler || (cuda === null && 'no cuda.h') }, () => {
  const facts = {
    'sizeof(CUDA_KERNEL_NODE_PARAMS_v2)': NODE.bytes,
    'offsetof(CUDA_KERNEL_NODE_PARAMS_v2, func)': NODE.function,
    'offsetof(CUDA_KERNEL_NODE_PARAMS_v2, gridDimX)': NODE.grid,
    'offsetof(CUDA_KERNEL_NODE_PARAMS_v2, blockDimX)': NODE.grid + 12,
    'offsetof(CUDA_KERNEL_NODE_PARAMS_v2, sharedMemBytes)': NODE.shared,
    'offsetof(CUDA_KERNEL_NODE_PARAMS_v2, kernelParams)': NODE.parameters,
    'sizeof(CUuuid)': 16,
    'sizeof(CUresult)': 4,
    'sizeof(CUdevice)': 4,
    'sizeof(CUdevice_attribute)': 4,
    'sizeof(CUdeviceptr)': 8,
    'sizeof(CUstream)': 8,
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: ATTRIBUTE.multiprocessors,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: ATTRIBUTE.major,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: ATTRIBUTE.minor,
    CU_STREAM_NON_BLOCKING: STREAM_NON_BLOCKING,
    CU_EVENT_DISABLE_TIMING: EVENT_DISABLE_TIMING,
    CUDA_ERROR_OUT_OF_MEMORY: RESULT.outOfMemory,
    CUDA_ERROR_STUB_LIBRARY: RESULT.stubLibrary,
    CUDA_ERROR_NO_DEVICE: RESULT.noDevice,
    CUDA_ERROR_NOT_READY: RESULT.notReady,
    CUDA_ERROR_ILLEGAL_ADDRESS: 700,
    CUDA_ERROR_LAUNCH_FAILED: 719,
  };
  const text = (all: readonly string[], given: Readonly<Record<string, number>>): string =>
    `#include <cuda.h>\n#include <stddef.h>\n${typed(all)}\n${equal(given)}\n`;
  compileC(cuda ?? '', text(declarations(), facts));
  // The check sees what is wrong.
  const wrong = declarations().map((d) => d.replace('cuMemFree_v2(CUdeviceptr)', 'cuMemFree_v2(void *)'));
  assert.throws(() => {
    compileC(cuda ?? '', text(wrong, facts));
  }, /cuMemFree_v2/);
  assert.throws(() => {
    compileC(cuda ?? '', text(declarations(), { ...facts, 'sizeof(CUuuid)': 15 }));
  }, /static assertion/);
});

test('NVRTC: functions', { skip: noCompiler || (nvrtcHeader === null && 'no nvrtc.h') }, () => {
  compileC(nvrtcHeader ?? '', `#include <nvrtc.h>\n${typed(nvrtcDeclarations())}\n`);
});

const nvrtc = await realNvrtc();

test('NVRTC compiles the kernels of a training step for GPUs', { skip: nvrtc === null && 'no libnvrtc' }, async () => {
  assert.ok(nvrtc);
  await using session = await compile(toyLM(), {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-3, clip: 1 }),
    device: 'reference',
  });
  const { kernels } = compileGraph(session.trainGraph(toyBatch(0)), GPU);
  for (const capability of [90]) {
    const architecture = nvrtc.architecture(capability),
      cubins = await Promise.all(
        [emitFile(kernels.slice(0, 60)), emitFile(kernels.slice(60)), normalsText()].map((text, i) =>
          nvrtc.compile(prelude() + text, `kernels-${i}.cu`, architecture),
        ),
      ),
      names = cubins.map((cubin) => Buffer.from(cubin).toString('latin1')).join('\n');
    assert.ok(cubins.every((cubin) => Buffer.from(cubin.subarray(0, 4)).toString('latin1') === '\x7fELF'));
    for (const { key } of kernels) assert.ok(names.includes(functionName(key)), key);
    assert.ok(names.includes('dm_normals'));
  }
});

test(
  'NVRTC says where a text is wrong, and which GPUs it knows',
  { skip: nvrtc === null && 'no libnvrtc' },
  async () => {
    assert.ok(nvrtc);
    const architecture = nvrtc.architecture(90);
    await assert.rejects(
      nvrtc.compile('not CUDA', 'wrong.cu', architecture),
      /NVRTC \d+\.\d+ failed on wrong\.cu: .*error/,
    );
    assert.throws(() => nvrtc.architecture(990), /does not know GPUs of compute capability 99\.0/);
  },
);
