// A device that checks its calls: it notes memory that is used after it was freed, or freed while a program uses it. It
// can also fail at a chosen call. Many sessions use one real device, one after the other; closing the checked device
// only checks that all memory was freed.
import type { TypedArray } from '../../src/base/dtype.ts';
import type {
  Bound,
  BoundStep,
  Device,
  DeviceInfo,
  Draw,
  KernelSource,
  Memory,
  StepTimes,
} from '../../src/device/device.ts';

export type DeviceCall = 'alloc' | 'write' | 'read' | 'draw' | 'compile' | 'bind' | 'run' | 'profile';

interface Table extends Bound {
  readonly real: Bound;
  readonly at: readonly number[];
}

export class CheckedDevice implements Device {
  /** Violations that were found, as text. */
  readonly wrong: string[] = [];
  readonly #device: Device;
  readonly #fails: (call: DeviceCall) => boolean;
  readonly #live = new Map<number, Memory>();
  readonly #tables = new Set<Bound>();
  /** Addresses in use by running programs. */
  #used: readonly number[] | null = null;
  #compiling = 0;
  #closed = false;

  /** `fails`: returns true if this call must throw. */
  constructor(device: Device, fails: (call: DeviceCall) => boolean = () => false) {
    this.#device = device;
    this.#fails = fails;
  }

  get info(): DeviceInfo {
    return this.#device.info;
  }
  get idle(): boolean {
    return this.#used === null && this.#compiling === 0;
  }

  #enter(call: DeviceCall): void {
    if (this.#closed) this.#note(`${call} on a closed device`);
    if (this.#fails(call)) throw new Error(`${call} fails`);
  }

  #note(what: string): void {
    this.wrong.push(what);
  }

  #memoryAt(address: number, bytes = 1): Memory | null {
    for (const m of this.#live.values()) if (address >= m.address && address + bytes <= m.address + m.bytes) return m;
    return null;
  }

  alloc(bytes: number): Memory {
    this.#enter('alloc');
    const memory = this.#device.alloc(bytes);
    this.#live.set(memory.address, memory);
    return memory;
  }

  free(memory: Memory): void {
    if (this.#live.get(memory.address) !== memory) this.#note(`free of ${memory.address}, which is not allocated`);
    if (this.#used?.some((a) => a >= memory.address && a < memory.address + memory.bytes))
      this.#note(`free of ${memory.address} while it is used`);
    this.#live.delete(memory.address);
    this.#device.free(memory);
  }

  write(address: number, data: TypedArray): void {
    this.#enter('write');
    const memory = this.#memoryAt(address, data.byteLength);
    if (!memory && data.byteLength > 0)
      this.#note(`write of ${data.byteLength} bytes at ${address}, where there is no memory`);
    if (memory && this.#used?.some((a) => a >= memory.address && a < memory.address + memory.bytes))
      this.#note(`write at ${address} while it is used`);
    this.#device.write(address, data);
  }

  read(address: number, into: TypedArray): void {
    this.#enter('read');
    if (!this.#memoryAt(address, into.byteLength) && into.byteLength > 0)
      this.#note(`read of ${into.byteLength} bytes at ${address}, where there is no memory`);
    this.#device.read(address, into);
  }

  async #run<T>(call: DeviceCall, addresses: readonly number[], work: () => Promise<T>): Promise<T> {
    this.#enter(call);
    if (this.#used) this.#note(`${call} while another call runs`);
    for (const a of addresses) if (!this.#memoryAt(a)) this.#note(`${call} on ${a}, where there is no memory`);
    this.#used = addresses;
    try {
      // Long enough for other calls to run in between.
      await new Promise((resolve) => {
        setImmediate(resolve);
      });
      const result = await work();
      await new Promise((resolve) => {
        setImmediate(resolve);
      });
      if (this.#fails(call)) throw new Error(`${call} fails late`);
      return result;
    } finally {
      this.#used = null;
    }
  }

  draw(draws: readonly Draw[]): Promise<void> {
    return this.#run(
      'draw',
      draws.map((d) => d.address),
      () => this.#device.draw(draws),
    );
  }

  async compile(kernels: readonly KernelSource[]): Promise<void> {
    this.#enter('compile');
    this.#compiling++;
    try {
      await this.#device.compile(kernels);
      if (this.#fails('compile')) throw new Error('compile fails late');
    } finally {
      this.#compiling--;
    }
  }

  bind(steps: readonly BoundStep[]): Bound {
    this.#enter('bind');
    const at = [
      ...new Set(
        steps.flatMap((s) => [
          ...s.buffers,
          ...(s.unless === null ? [] : [s.unless]),
          ...(s.runsGroupwiseAfterPrevious ? [s.runsGroupwiseAfterPrevious.offsets] : []),
        ]),
      ),
    ];
    const real = this.#device.bind(steps),
      table: Table = { steps: real.steps, real, at };
    this.#tables.add(table);
    return table;
  }

  run(bound: Bound, from?: number, to?: number): Promise<void> {
    if (!this.#tables.has(bound)) this.#note('run of a table that was given back');
    const { at, real } = bound as Table;
    return this.#run('run', at, () => this.#device.run(real, from, to));
  }

  profile(bound: Bound): Promise<StepTimes> {
    if (!this.#tables.has(bound)) this.#note('profile of a table that was given back');
    const { at, real } = bound as Table;
    return this.#run('profile', at, () => this.#device.profile(real));
  }

  release(bound: Bound): void {
    if (!this.#tables.delete(bound)) this.#note('a table is given back twice');
    if (this.#used === (bound as Table).at) this.#note('a table is given back while it runs');
    this.#device.release((bound as Table).real);
  }

  close(): void {
    if (this.#closed) this.#note('closed twice');
    this.#closed = true;
    if (this.#used) this.#note('closed while something runs');
    if (this.#live.size > 0) this.#note(`${this.#live.size} blocks of memory are left`);
    if (this.#tables.size > 0) this.#note(`${this.#tables.size} tables are left`);
    for (const memory of this.#live.values()) this.#device.free(memory);
  }
}
