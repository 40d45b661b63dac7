// The functions of collective steps, for the native device.
import { UserError } from '../../base/errors.ts';
import type { Collective } from '../../base/collective.ts';
import type { BoundCollective } from '../device.ts';
import type { Ranks } from '../ranks.ts';
import type { Driver } from './driver.ts';
import type { NativeKernel } from './library.ts';
import { MpiRanks } from './mpi.ts';

const FUNCTIONS: Readonly<Partial<Record<Collective, string>>> = {
  gatherRanks: 'dm_gather_ranks',
  exchangeRows: 'dm_exchange_rows',
  joinRanks: 'dm_join_ranks',
  relay: 'dm_relay',
};

export class NativeCollectives {
  readonly ranks: MpiRanks;
  readonly #driver: Driver;
  readonly #library: number;

  private constructor(ranks: MpiRanks, driver: Driver, library: number) {
    this.ranks = ranks;
    this.#driver = driver;
    this.#library = library;
  }

  /** Throws RanksError if the ranks have different machines: kernels of different vectors give different bits. */
  static open(ranks: Ranks, driver: Driver, threads: number): NativeCollectives {
    if (!(ranks instanceof MpiRanks))
      throw new UserError('the native device exchanges messages over MPI only', 'get the ranks from openRanks()');
    const { compiler, arch, vector, fma } = JSON.parse(driver.info()) as Record<string, string | number | boolean>,
      library = driver.open(ranks.object);
    if (library === 0) throw new Error(`${ranks.object}: ${driver.error()}`);
    ranks.same('the machine', `${arch}, vectors of ${vector} bytes, ${fma ? 'fma' : 'no fma'}, ${compiler}`);
    ranks.useThreads(threads);
    return new NativeCollectives(ranks, driver, library);
  }

  /** The function that a product calls for each slot whose rows come or go. */
  slot(slots: 'come' | 'go'): number {
    return this.#driver.symbol(this.#library, slots === 'come' ? 'dm_wait_slot' : 'dm_send_slot');
  }

  get({ collective, phase }: BoundCollective): NativeKernel {
    const own = FUNCTIONS[collective],
      name = phase === 'wait' ? 'dm_wait_exchange' : phase === 'begin' && own ? `${own}_begin` : own,
      run = name === undefined ? 0 : this.#driver.symbol(this.#library, name);
    if (run === 0) throw new Error(`the native device has no collective ${collective}`);
    return { tasks: 0, run };
  }
}
