// The GPU that the parts use: the first one, or that of DYNAMOE_GPU (`cuda:1`, `cuda:GPU-1a2b`).
import { CudaDevice } from '../../src/device/cuda/cuda.ts';

export const GPU_NAME = (process.env['DYNAMOE_GPU'] ?? 'cuda') as 'cuda';

/** threads: of a block. */
export const openGpu = (threads?: number): Promise<CudaDevice> => CudaDevice.open(GPU_NAME, console.error, threads);
