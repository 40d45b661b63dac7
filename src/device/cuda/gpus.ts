// The GPUs of a machine, and which of them a device name means: `cuda` is the first, `cuda:1` the second,
// `cuda:GPU-8f2c` the one whose UUID begins so. CUDA_VISIBLE_DEVICES decides which there are, and their order.
import { UserError } from '../../base/errors.ts';
import { LEAST, noGpu, showCapability } from './errors.ts';
import { ATTRIBUTE, type Cuda } from './libcuda.ts';

export interface Gpu {
  readonly index: number;
  /** Its number for the driver (CUdevice). */
  readonly handle: number;
  readonly name: string;
  /** GPU-8f2c...; of a part of a GPU (MIG) that of the part. */
  readonly uuid: string;
  /** 90 is compute capability 9.0. */
  readonly capability: number;
  readonly multiprocessors: number;
  /** All its memory. */
  readonly bytes: number;
}

export function gpusOf(cuda: Cuda): Gpu[] {
  return Array.from({ length: cuda.int('cuDeviceGetCount') }, (_, index) => {
    const handle = cuda.int('cuDeviceGet', index),
      name = new Uint8Array(256),
      uuid = new Uint8Array(16),
      attribute = (which: number): number => cuda.int('cuDeviceGetAttribute', which, handle);
    cuda.call('cuDeviceGetName', name, name.length, handle);
    cuda.call('cuDeviceGetUuid_v2', uuid, handle);
    return {
      index,
      handle,
      name: new TextDecoder().decode(name.subarray(0, name.indexOf(0))),
      uuid: `GPU-${Buffer.from(uuid)
        .toString('hex')
        .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')}`,
      capability: 10 * attribute(ATTRIBUTE.major) + attribute(ATTRIBUTE.minor),
      multiprocessors: attribute(ATTRIBUTE.multiprocessors),
      bytes: Number(cuda.make('cuDeviceTotalMem_v2', handle)),
    };
  });
}

export const showGpu = ({ index, name, uuid, capability }: Gpu): string =>
  `cuda:${index} is ${name} (compute capability ${showCapability(capability)}, ${uuid})`;

/** The GPU of a device name. Throws UserError if there is none or it is too old; it lists those that there are. */
export function chooseGpu(gpus: readonly Gpu[], device: string): Gpu {
  const [, wanted] = /^cuda(?::(.*))?$/s.exec(device) ?? [];
  const there = gpus.map(showGpu).join('; ');
  if (gpus.length === 0) throw noGpu();
  if (wanted !== undefined && !/^(?:\d+|(?:GPU|MIG)-[0-9a-f-]+)$/i.test(wanted))
    throw new UserError(`device ${device}: expected cuda, cuda:INDEX or cuda:GPU-UUID`, there);
  const found = gpus.filter(({ index, uuid }) =>
    wanted === undefined || /^\d+$/.test(wanted)
      ? index === Number(wanted ?? 0)
      : uuid.toLowerCase().startsWith(wanted.toLowerCase().replace(/^mig/, 'gpu')),
  );
  if (found.length !== 1)
    throw new UserError(`device ${device}: ${found.length === 0 ? 'there is no such GPU' : 'several GPUs fit'}`, there);
  const [gpu] = found;
  if (gpu.capability < LEAST.capability)
    throw new UserError(
      `device ${device}: ${gpu.name} has compute capability ${showCapability(gpu.capability)}, and ` +
        `${showCapability(LEAST.capability)} is needed`,
      gpus.length > 1 ? there : "device 'native' runs on the CPU",
    );
  return gpu;
}
