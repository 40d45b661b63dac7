// Ranks for tests without a launcher: threads of one process that exchange bytes through shared memory. Sessions of
// such ranks make, save and restore states; programs that cross ranks need a device with a library of messages.
import { RanksError, type RankCounters, type Ranks } from '../../src/device/ranks.ts';

/** Bytes that a rank may give at once. */
const ROOM = 1 << 20,
  PATIENCE_MS = 60_000;

export interface Shared {
  readonly memory: SharedArrayBuffer;
  readonly size: number;
}
export const shared = (size: number): Shared => ({ memory: new SharedArrayBuffer(64 + size * ROOM), size });

export class ThreadRanks implements Ranks {
  readonly rank: number;
  readonly size: number;
  readonly onHost: { readonly rank: number; readonly size: number };
  readonly description = 'threads of a test';
  readonly counters: RankCounters = { sent: 0, waitedMs: 0, exchanges: 0 };
  /** Ranks that have come, rounds that are over, then the number of bytes of each rank. */
  readonly #words: Int32Array;
  readonly #memory: SharedArrayBuffer;

  constructor({ memory, size }: Shared, rank: number) {
    [this.rank, this.size, this.#memory] = [rank, size, memory];
    this.onHost = { rank, size };
    this.#words = new Int32Array(memory, 0, 16);
  }

  #meet(): void {
    const round = Atomics.load(this.#words, 1);
    if (Atomics.add(this.#words, 0, 1) === this.size - 1) {
      Atomics.store(this.#words, 0, 0);
      Atomics.add(this.#words, 1, 1);
      Atomics.notify(this.#words, 1);
    } else if (Atomics.wait(this.#words, 1, round, PATIENCE_MS) === 'timed-out')
      throw new RanksError(`rank ${this.rank} has waited for too long`);
  }

  gather(own: Uint8Array): Uint8Array[] {
    if (own.length > ROOM) throw new RanksError(`${own.length} bytes are more than ${ROOM}`);
    const bytes = (rank: number): Uint8Array => new Uint8Array(this.#memory, 64 + rank * ROOM, this.#words[2 + rank]);
    this.#words[2 + this.rank] = own.length;
    bytes(this.rank).set(own);
    this.#meet();
    const all = Array.from({ length: this.size }, (_, rank) => bytes(rank).slice());
    this.#meet();
    return all;
  }

  broadcast(from: number, data: Uint8Array): Uint8Array {
    return this.gather(this.rank === from ? data : new Uint8Array())[from];
  }

  same(what: string, text: string): void {
    const texts = this.gather(new TextEncoder().encode(text)).map((bytes) => new TextDecoder().decode(bytes)),
      other = texts.findIndex((t) => t !== texts[0]);
    if (other >= 0) throw new RanksError(`rank ${other} has another ${what}: ${texts[other]}, not ${texts[0]}`);
  }

  at(): void {
    /* nothing is reported */
  }
  abort(error: unknown): never {
    throw error;
  }
  close(): void {
    /* nothing is open */
  }
}
