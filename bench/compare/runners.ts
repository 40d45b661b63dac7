// The command that starts each contestant's process, and what it needs on this machine.
import { existsSync, readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type { Command } from './protocol.ts';
import { OURS } from './before.ts';
import type { Contestant } from './works.ts';

const HERE = import.meta.dirname,
  ROOT = join(HERE, '..', '..');
const PACKAGES = { jax: '@jax-js/jax', tfjs: '@tensorflow/tfjs-backend-wasm', onnx: 'onnxruntime-node' } as const;

/** The folder of Debian's OpenBLAS with OpenMP threads; null if it is not installed. */
function openblas(): string | null {
  const lib = '/usr/lib',
    found = existsSync(lib)
      ? readdirSync(lib)
          .map((arch) => join(lib, arch, 'openblas-openmp'))
          .find((path) => existsSync(path))
      : undefined;
  return found ?? null;
}

/** The command, or what is missing on this machine. */
export function runnerOf({
  runner,
  folder = ROOT,
}: Pick<Contestant, 'runner' | 'folder'>): Command | { readonly missing: string } {
  switch (runner) {
    case 'ours':
      return { file: process.execPath, args: ['--conditions=dynamoe-source', join(folder, OURS)] };
    case 'torch': {
      const blas = openblas(),
        python = process.env['PYTHON'] ?? (existsSync('/usr/bin/python3') ? '/usr/bin/python3' : 'python3');
      if (blas === null)
        return {
          missing:
            'OpenBLAS with OpenMP, without which PyTorch is much slower: apt-get ' +
            'install python3-torch libopenblas0-openmp',
        };
      return {
        file: python,
        args: [join(HERE, 'peers', 'torch_peer.py')],
        env: { LD_LIBRARY_PATH: blas, OMP_NUM_THREADS: String(availableParallelism()) },
      };
    }
    case 'jax':
    case 'tfjs':
    case 'onnx': {
      if (!existsSync(join(HERE, 'node_modules', PACKAGES[runner])))
        return { missing: `${PACKAGES[runner]} is not installed: npm run compare -- --install` };
      return { file: process.execPath, args: [join(HERE, 'peers', `${runner}.mjs`)] };
    }
  }
}
