// The CUDA C++ that stands before the text of kernels (src/emit/cuda), and the kernel of initial values.
import { readFileSync } from 'node:fs';

const textOf = (path: string): string => readFileSync(new URL(path, import.meta.url), 'utf8');

/** Stands before the text of kernels. It includes nothing, but under nvcc <stdint.h>. */
export const prelude = (): string => `${textOf('kernel.cuh')}\n${textOf('../native/numbers.h')}\n`;

/** The kernel `dm_normals` (src/device/normals.ts): stands behind the prelude. */
export const normalsText = (): string => `${textOf('../native/normals.h')}\n${textOf('normals.cuh')}\n`;
/** Threads of its blocks. */
export const NORMALS_THREADS = 256;
