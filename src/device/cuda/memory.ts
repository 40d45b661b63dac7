// The memory of a GPU: plain allocations within a budget. What is freed is given back when the GPU has come to this
// place in the stream, because what runs now may use it.
import { UserError } from '../../base/errors.ts';
import type { Memory, Place } from '../device.ts';
import { isOutOfMemory } from './errors.ts';
import type { CudaStream } from './stream.ts';

/** Blocks begin at a multiple of it, and have a multiple of it. */
const ALIGNMENT = 256;

class Block implements Memory {
  readonly bytes: number;
  readonly address: bigint;
  freed = false;

  constructor(address: bigint, bytes: number) {
    this.address = address;
    this.bytes = bytes;
  }
}

export class CudaMemory {
  readonly #stream: CudaStream;
  readonly #budget: number;
  readonly #blocks = new Set<Block>();
  /** Bytes of all blocks, also of those that were freed and not yet given back. */
  #used = 0;

  /** budget: bytes. */
  constructor(stream: CudaStream, budget: number) {
    this.#stream = stream;
    this.#budget = budget;
  }

  alloc(bytes: number): Memory {
    const size = Math.max(ALIGNMENT, Math.ceil(bytes / ALIGNMENT) * ALIGNMENT),
      address = this.#take(size),
      block = new Block(address, size);
    this.#blocks.add(block);
    this.#used += size;
    try {
      this.#stream.put('cuMemsetD8Async', address, 0, size);
    } catch (error) {
      this.free(block);
      throw error;
    }
    return block;
  }

  /** If there is too little, waits until what was freed is given back, and tries once more. */
  #take(bytes: number): bigint {
    const once = this.#tried(bytes);
    if (once !== null) return once;
    this.#stream.synchronise();
    const again = this.#tried(bytes);
    if (again !== null) return again;
    throw new UserError(
      `out of memory on the GPU: ${bytes} bytes could not be allocated, beside ${this.#used} bytes of at most ` +
        `${this.#budget}`,
      'a smaller model or batch',
    );
  }

  #tried(bytes: number): bigint | null {
    if (this.#used + bytes > this.#budget) return null;
    try {
      return this.#stream.make('cuMemAlloc_v2', bytes);
    } catch (error) {
      if (isOutOfMemory(error)) return null;
      throw error;
    }
  }

  free(memory: Memory): void {
    const block = blockOf(memory);
    block.freed = true;
    if (this.#stream.works)
      this.#stream.mark(null, (error) => {
        // After a failure something may still use it: `close` gives it back.
        if (!error) this.#giveBack(block);
      });
  }

  #giveBack(block: Block): void {
    this.#stream.giveBack('cuMemFree_v2', block.address);
    this.#blocks.delete(block);
    this.#used -= block.bytes;
  }

  addressOf({ memory, offset }: Place): bigint {
    return blockOf(memory).address + BigInt(offset);
  }

  /** The address of `bytes` bytes. */
  rangeOf({ memory, offset }: Place, bytes: number): bigint {
    if (offset < 0 || offset + bytes > memory.bytes)
      throw new Error(`${bytes} bytes at ${offset} lie outside a block of ${memory.bytes} bytes`);
    return this.addressOf({ memory, offset });
  }

  /** Gives everything back. Nothing may be running. */
  close(): void {
    for (const block of this.#blocks) this.#giveBack(block);
  }
}

function blockOf(memory: Memory): Block {
  if (memory instanceof Block && !memory.freed) return memory;
  throw new Error('this memory was freed, or is not of the cuda device');
}
