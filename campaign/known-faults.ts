// Known faults that tests insert (tests/campaign) to check that the campaign finds them. In: the name of a fault. Out:
// this process, with the fault.
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { CudaDevice } from '../src/device/cuda/cuda.ts';
import { NativeDevice } from '../src/device/native/native.ts';
import { WasmDevice } from '../src/device/wasm/wasm.ts';
import { Session } from '../src/session/session.ts';
import type { Device } from '../src/device/device.ts';

const FAULTS: Readonly<Record<string, () => void>> = {
  /** After each run on 2 threads of the native device, the next read returns one value with its last bit flipped. */
  'flipped-bit': () => {
    flip(NativeDevice.prototype);
  },
  /** The same on the wasm device. */
  'flipped-bit-wasm': () => {
    flip(WasmDevice.prototype);
  },
  /** The same on the cuda device, which has no threads. */
  'flipped-bit-cuda': () => {
    flip(CudaDevice.prototype, 1);
  },
  /** `session.forward` waits 30 ms before it joins the queue of calls, so calls run in another order. */
  unordered: () => {
    const real = Session.prototype.forward;
    Session.prototype.forward = async function (batch) {
      await new Promise((resolve) => {
        setTimeout(resolve, 30);
      });
      return real.call(this, batch);
    };
  },
  /** Every 7th line of a log is lost. */
  'lost-line': () => {
    const real = fs.appendFileSync;
    let n = 0;
    fs.appendFileSync = (...args: Parameters<typeof real>) => {
      if (++n % 7 !== 0) real(...args);
    };
    syncBuiltinESMExports();
  },
};

function flip(device: Pick<Device, 'info' | 'bind' | 'read'>, threads = 2): void {
  const { bind, read } = device;
  let due = false;
  device.bind = function (this: Device, steps) {
    const bound = bind.call(this, steps),
      { run } = bound;
    bound.run = (...args): Promise<void> => {
      due = this.info.threads === threads;
      return run.apply(bound, args);
    };
    return bound;
  };
  device.read = async function (this: Device, reads) {
    await read.call(this, reads);
    const into = reads.map((r) => r.into).find((data) => data instanceof Float32Array);
    if (!due || !into) return;
    due = false;
    new Uint32Array(into.buffer, into.byteOffset, 1)[0] ^= 1;
  };
}

/**
 * Inserts the named fault into this process; null inserts none. If a name is not in this table, a part checks
 * `knownFault` itself.
 */
export function insertFault(name: string | null): void {
  if (name !== null) FAULTS[name]?.();
}
