// What nvcc makes of the text of kernels: registers, shared memory and spills of each, without a GPU.
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { prelude } from '../../../src/device/cuda/prelude.ts';
import type { KernelSource } from '../../../src/device/device.ts';
import { emitFile, functionName } from '../../../src/emit/cuda/kernel.ts';

const run = promisify(execFile);

/** As the device compiles kernels: rounding as the kernel language says, machine code for one architecture. */
const FLAGS = ['-arch=sm_90a', '-cubin', '--fmad=false', '--ftz=false', '--prec-div=true', '--prec-sqrt=true'];
const PER_FILE = 16;

/** Why kernels cannot be compiled here; false: they can. */
export const noNvcc: string | false = await run('nvcc', ['--version']).then(
  ({ stdout }) => (/release (?:1[2-9]|[2-9]\d)\./.test(stdout) ? false : 'nvcc is older than 12.0'),
  () => 'no nvcc found',
);

/** What a thread or block of a kernel uses. */
export interface Use {
  readonly key: string;
  readonly registers: number;
  /** Bytes of a block. */
  readonly shared: number;
  /** Bytes of a thread in local memory: arrays whose elements are not chosen by constants, and spilled registers. */
  readonly stack: number;
  /** Bytes of stores and loads of registers for which there was no room. */
  readonly spilled: number;
}

/** Compiles kernels for an H200. Throws what nvcc says of a text that it refuses. */
export async function compileWithNvcc(kernels: readonly KernelSource[]): Promise<Use[]> {
  const files = Array.from({ length: Math.ceil(kernels.length / PER_FILE) }, (_, i) =>
      kernels.slice(i * PER_FILE, (i + 1) * PER_FILE),
    ),
    uses: Use[] = [],
    folder = await mkdtemp(join(tmpdir(), 'dynamoe-nvcc-'));
  const worker = async (): Promise<void> => {
    for (let file = files.shift(); file; file = files.shift()) {
      const path = join(folder, `${files.length}.cu`);
      await writeFile(path, prelude() + emitFile(file));
      const { stderr } = await run('nvcc', [...FLAGS, '-w', '-Xptxas', '-v', '-o', `${path}bin`, path]);
      uses.push(...file.map(({ key }) => useOf(key, stderr)));
    }
  };
  try {
    await Promise.all([worker(), worker()]);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return uses;
}

/** Reads what ptxas -v says of a kernel. */
function useOf(key: string, text: string): Use {
  const from = text.indexOf(`Compiling entry function '${functionName(key)}'`),
    [part] = text.slice(from).split('Compile time'),
    number = (pattern: RegExp): number => Number(pattern.exec(part)?.[1] ?? NaN);
  const use = {
    key,
    registers: number(/Used (\d+) registers/),
    shared: / bytes smem/.test(part) ? number(/(\d+) bytes smem/) : 0,
    stack: number(/(\d+) bytes stack frame/),
    spilled: number(/(\d+) bytes spill stores/) + number(/(\d+) bytes spill loads/),
  };
  if (from < 0 || Object.values(use).some((x) => Number.isNaN(x)))
    throw new Error(`nvcc says nothing of kernel ${key}: ${text.slice(0, 1000)}`);
  return use;
}
