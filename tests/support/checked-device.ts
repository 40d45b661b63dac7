// A device that checks its calls: it notes memory that is used after it was freed, or freed while a program uses it. It
// can also fail at a chosen call. Many sessions use one real device, one after the other; closing the checked device
// only checks that all memory was freed.
import type { TypedArray } from '../../src/base/dtype.ts';
import type {
  Bound,
  BoundStep,
  Device,
  KernelSource,
  Memory,
  Place,
  Read,
  StepTimes,
} from '../../src/device/device.ts';
import type { NormalsSource } from '../../src/device/normals.ts';
import { placesOf, WrappedDevice } from './wrapped-device.ts';

export type DeviceCall = 'alloc' | 'write' | 'read' | 'compile' | 'bind' | 'run' | 'profile';

export class CheckedDevice extends WrappedDevice {
  /** Violations that were found, as text. */
  readonly wrong: string[] = [];
  readonly #fails: (call: DeviceCall) => boolean;
  readonly #live = new Set<Memory>();
  readonly #tables = new Set<Bound>();
  /** Memory in use by what is running. */
  #used: ReadonlySet<Memory> | null = null;
  #compiling = 0;
  #closed = false;

  /** `fails`: returns true if this call must throw. */
  constructor(device: Device, fails: (call: DeviceCall) => boolean = () => false) {
    super(device);
    this.#fails = fails;
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

  #check(what: string, { memory, offset }: Place, bytes = 1): void {
    if (!this.#live.has(memory) || offset < 0 || offset + bytes > memory.bytes)
      this.#note(`${what} of ${bytes} bytes at ${offset}, which is not allocated`);
  }

  override alloc(bytes: number): Memory {
    this.#enter('alloc');
    const memory = this.device.alloc(bytes);
    this.#live.add(memory);
    return memory;
  }

  override free(memory: Memory): void {
    if (!this.#live.delete(memory)) this.#note('free of memory that is not allocated');
    if (this.#used?.has(memory) === true) this.#note('free of memory while it is used');
    this.device.free(memory);
  }

  override write(place: Place, data: TypedArray): void {
    this.#enter('write');
    if (data.byteLength > 0) this.#check('write', place, data.byteLength);
    if (this.#used?.has(place.memory) === true) this.#note('write of memory while it is used');
    this.device.write(place, data);
  }

  override read(reads: readonly Read[]): Promise<void> {
    this.#enter('read');
    for (const { place, into } of reads) if (into.byteLength > 0) this.#check('read', place, into.byteLength);
    return this.device.read(reads);
  }

  async #run<T>(call: DeviceCall, used: readonly Place[], work: () => Promise<T>): Promise<T> {
    this.#enter(call);
    if (this.#used) this.#note(`${call} while another call runs`);
    for (const place of used) this.#check(call, place);
    this.#used = new Set(used.map(({ memory }) => memory));
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

  override async compile(kernels: readonly (KernelSource | NormalsSource)[]): Promise<void> {
    this.#enter('compile');
    this.#compiling++;
    try {
      await this.device.compile(kernels);
      if (this.#fails('compile')) throw new Error('compile fails late');
    } finally {
      this.#compiling--;
    }
  }

  override bind(steps: readonly BoundStep[]): Bound {
    this.#enter('bind');
    const used = steps.flatMap(placesOf),
      real = this.device.bind(steps);
    let running = false;
    const run = <T>(call: DeviceCall, work: () => Promise<T>): Promise<T> => {
      if (!this.#tables.has(table)) this.#note(`${call} of a table that was given back`);
      running = true;
      return this.#run(call, used, work).finally(() => {
        running = false;
      });
    };
    const table: Bound = {
      run: (from, to): Promise<void> => run('run', () => real.run(from, to)),
      profile: (): Promise<StepTimes> => run('profile', () => real.profile()),
      dispose: () => {
        if (!this.#tables.delete(table)) this.#note('a table is given back twice');
        if (running) this.#note('a table is given back while it runs');
        real.dispose();
      },
    };
    this.#tables.add(table);
    return table;
  }

  override close(): Promise<void> {
    if (this.#closed) this.#note('closed twice');
    this.#closed = true;
    if (this.#used) this.#note('closed while something runs');
    if (this.#live.size > 0) this.#note(`${this.#live.size} blocks of memory are left`);
    if (this.#tables.size > 0) this.#note(`${this.#tables.size} tables are left`);
    for (const memory of this.#live) this.device.free(memory);
    return Promise.resolve();
  }
}
