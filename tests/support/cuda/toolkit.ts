// Where NVIDIA's headers and its compiler are, if this machine has them: neither needs a GPU.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Nvrtc } from '../../../src/device/cuda/nvrtc.ts';

/** Folders of toolkits, and of the packages of a Python environment. */
function roots(): string[] {
  const { CUDA_PATH, CUDA_HOME, VIRTUAL_ENV, DYNAMOE_TEST_NVRTC } = process.env,
    toolkits = readdirSync('/usr/local').filter((name) => name.startsWith('cuda'));
  return [
    ...[DYNAMOE_TEST_NVRTC, CUDA_PATH, CUDA_HOME].flatMap((root) => (root ? [root] : [])),
    ...toolkits.map((name) => join('/usr/local', name)),
    ...(VIRTUAL_ENV ? ['cu13', 'cuda_nvrtc'].map((name) => join(VIRTUAL_ENV, 'nvidia', name)) : []),
  ];
}

/** The folder with a header; null: there is none. */
export function headerFolder(name: string): string | null {
  if (process.platform !== 'linux') return null;
  return (
    roots()
      .map((root) => join(root, 'include'))
      .find((folder) => existsSync(join(folder, name))) ?? null
  );
}

/**
 * NVIDIA's own NVRTC: DYNAMOE_TEST_NVRTC names the folder of a package or a toolkit, with lib/ and include/. Null:
 * there is none.
 */
export async function realNvrtc(): Promise<Nvrtc | null> {
  const before = process.env['DYNAMOE_NVRTC'],
    root = process.env['DYNAMOE_TEST_NVRTC'],
    found =
      root &&
      ['libnvrtc.so.13', 'libnvrtc.so.12'].map((name) => join(root, 'lib', name)).find((path) => existsSync(path));
  if (found) process.env['DYNAMOE_NVRTC'] = found;
  else delete process.env['DYNAMOE_NVRTC'];
  try {
    return await Nvrtc.load(13000);
  } catch {
    return null;
  } finally {
    if (before === undefined) delete process.env['DYNAMOE_NVRTC'];
    else process.env['DYNAMOE_NVRTC'] = before;
  }
}
