// A device that passes every call on to another one. Test devices extend it.
import type { TypedArray } from '../../src/base/dtype.ts';
import type {
  Bound,
  BoundStep,
  Device,
  DeviceInfo,
  KernelSource,
  Memory,
  Place,
  Read,
} from '../../src/device/device.ts';
import type { NormalsSource } from '../../src/device/normals.ts';

export class WrappedDevice implements Device {
  protected readonly device: Device;

  constructor(device: Device) {
    this.device = device;
  }

  get info(): DeviceInfo {
    return this.device.info;
  }
  get target(): Device['target'] {
    return this.device.target;
  }
  alloc(bytes: number): Memory {
    return this.device.alloc(bytes);
  }
  free(memory: Memory): void {
    this.device.free(memory);
  }
  write(place: Place, data: TypedArray): void {
    this.device.write(place, data);
  }
  read(reads: readonly Read[]): Promise<void> {
    return this.device.read(reads);
  }
  compile(kernels: readonly (KernelSource | NormalsSource)[]): Promise<void> {
    return this.device.compile(kernels);
  }
  bind(steps: readonly BoundStep[]): Bound {
    return this.device.bind(steps);
  }
  close(): Promise<void> {
    return this.device.close();
  }
}

/** The places that a step uses. */
export const placesOf = (step: BoundStep): Place[] => [
  ...step.buffers,
  ...(step.unless ? [step.unless] : []),
  ...('kernel' in step && step.runsGroupwiseAfterPrevious ? [step.runsGroupwiseAfterPrevious.offsets] : []),
];
