// A device over the stand-in for libcuda and NVRTC (standin.c), for tests without a GPU. Importing this module compiles
// it and lets this process and those that it starts use it.
import { hash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { kernelCache } from '../../../src/device/cache.ts';
import { loadKoffi } from '../../../src/device/koffi.ts';
import { compileShared, findToolchain } from '../../../src/device/native/toolchain.ts';

const here = import.meta.dirname,
  SOURCES = ['standin.c', 'standin-stream.c', 'standin-nvrtc.c'];

const tool = process.platform === 'linux' ? await findToolchain().catch(() => null) : null;

/** For the option `skip` of a test: why the stand-in cannot run here; false: it can. */
export const noStandin: string | false = tool ? false : 'the stand-in for libcuda needs Linux and a C compiler';

let fired: () => number = () => 0;

/** Whether the call that was to fail has failed. */
export const hasFired = (): boolean => fired() !== 0;

if (tool) {
  const texts = ['shim.h', 'standin.h', ...SOURCES].map((name) => readFileSync(join(here, name), 'utf8')),
    stamp = `standin_${hash('sha256', [tool.id, ...texts].join('\n'))}`,
    defines = {
      STANDIN_SHIM: `"${join(here, 'shim.h')}"`,
      STANDIN_CC: `"${tool.command}"`,
      STANDIN_STAMP: stamp,
    };
  const path = await kernelCache(() => undefined).load(
    stamp,
    (target) =>
      compileShared(
        { ...tool, flags: ['-std=gnu11', '-O1', '-g', '-fPIC', '-shared', '-pthread', '-Wall', '-Wextra'] },
        SOURCES.map((name) => join(here, name)),
        here,
        target,
        Object.entries(defines).map(([name, value]) => `-D${name}=${value}`),
      ),
    (made) => made,
  );
  fired = (await loadKoffi()).load(path).func('int standin_fired()') as () => number;
  process.env['DYNAMOE_CUDA_DRIVER'] = path;
  process.env['DYNAMOE_NVRTC'] = path;
}

/** While `work` runs, the n-th call of a function fails, or the n-th kernel. code: an error other than the usual. */
export async function failing<T>(name: string, n: number, work: () => Promise<T>, code?: number): Promise<T> {
  process.env['DYNAMOE_STANDIN_FAIL'] = [name, n, ...(code === undefined ? [] : [code])].join(':');
  try {
    return await work();
  } finally {
    delete process.env['DYNAMOE_STANDIN_FAIL'];
  }
}
