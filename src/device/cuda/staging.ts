// Pinned memory of the host, through which everything is copied to and from the GPU. Such copies are put into the
// stream and return at once. The memory is a ring: what was taken is free again when the GPU has come to the next mark.
import type Koffi from 'koffi';
import type { CudaStream } from './stream.ts';

/** RING: bytes of the ring. PIECE: the most that is taken at once; larger copies are made in pieces. */
const RING = 8 << 20,
  PIECE = 1 << 20,
  ALIGNMENT = 64;

/** A part of the ring. */
interface Part {
  readonly address: bigint;
  readonly bytes: Uint8Array;
}

/** A copy from the GPU that lies in the ring until the GPU has made it. */
interface Arriving {
  readonly from: Uint8Array;
  readonly into: Uint8Array;
}

export const bytesIn = (data: NodeJS.TypedArray): Uint8Array =>
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

export class Staging {
  readonly #stream: CudaStream;
  readonly #address: bigint;
  readonly #ring: Uint8Array;
  /** Bytes that were taken since the beginning, and how many of them are free again. */
  #taken = 0;
  #free = 0;

  constructor(stream: CudaStream, koffi: typeof Koffi) {
    this.#stream = stream;
    this.#address = stream.make('cuMemHostAlloc', RING, 0);
    this.#ring = new Uint8Array(koffi.view(this.#address, RING));
  }

  /** Copies `data` to an address. */
  write(to: bigint, data: NodeJS.TypedArray): void {
    const all = bytesIn(data);
    for (let at = 0; at < all.length; at += PIECE) {
      const piece = all.subarray(at, at + PIECE),
        { address, bytes } = this.#take(piece.length);
      bytes.set(piece);
      this.#stream.put('cuMemcpyHtoDAsync_v2', to + BigInt(at), address, piece.length);
    }
  }

  /** Copies from addresses, in the order of the stream. Resolves when the arrays have their values. */
  async read(reads: readonly { readonly from: bigint; readonly into: NodeJS.TypedArray }[]): Promise<void> {
    let arriving: Arriving[] = [];
    for (const { from, into } of reads) {
      const all = bytesIn(into);
      for (let at = 0; at < all.length; at += PIECE) {
        const piece = all.subarray(at, at + PIECE);
        if (arriving.length > 0 && !this.#fits(piece.length)) {
          this.#land(arriving, () => undefined);
          arriving = [];
        }
        const { address, bytes } = this.#take(piece.length);
        this.#stream.surely(() => {
          this.#stream.put('cuMemcpyDtoHAsync_v2', address, from + BigInt(at), piece.length);
        });
        arriving.push({ from: bytes, into: piece });
      }
    }
    // Marks are reached in order: the last one tells of all.
    await new Promise<void>((resolve, reject) => {
      this.#land(arriving, (error) => {
        if (error) reject(error);
        else resolve();
      });
    });
  }

  /** Copies out of the ring when the GPU has made these copies, which frees what was taken so far. */
  #land(arriving: readonly Arriving[], then: (error: Error | null) => void): void {
    const upTo = this.#taken;
    this.#stream.mark(null, (error) => {
      if (!error) for (const { from, into } of arriving) into.set(from);
      this.#free = Math.max(this.#free, upTo);
      then(error);
    });
  }

  #fits(length: number): boolean {
    return this.#after(length) - this.#free <= RING;
  }

  /** How much has been taken after `length` bytes more, which do not lie around the end of the ring. */
  #after(length: number): number {
    const bytes = Math.ceil(length / ALIGNMENT) * ALIGNMENT,
      rest = RING - (this.#taken % RING);
    return this.#taken + bytes + (bytes > rest ? rest : 0);
  }

  #take(length: number): Part {
    if (!this.#fits(length)) {
      this.#stream.synchronise();
      this.#free = this.#taken;
    }
    this.#taken = this.#after(length);
    const at = (this.#taken - Math.ceil(length / ALIGNMENT) * ALIGNMENT) % RING;
    return { address: this.#address + BigInt(at), bytes: this.#ring.subarray(at, at + length) };
  }

  /** Gives the memory back. Nothing may be under way. */
  close(): void {
    this.#stream.giveBack('cuMemFreeHost', this.#address);
  }
}
