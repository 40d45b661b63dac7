// How a kernel is launched: its grid, and its parameters as 64-bit words in memory whose address the driver is told.
// One such memory serves all launches: the driver copies it before the call returns.
import type Koffi from 'koffi';
import { VerifyError } from '../../base/errors.ts';
import type { CudaKernel } from './library.ts';
import type { CudaStream } from './stream.ts';

/** Most words of a kernel: every driver passes 4 KiB. BUFFERS: leaves some for run-time integers. */
const WORDS = 512;
export const BUFFERS = WORDS - 64;

/** A kernel with the words that it gets. */
export interface Launch {
  readonly kernel: CudaKernel;
  readonly words: BigInt64Array;
}

/**
 * The memory: CUDA_KERNEL_NODE_PARAMS_v2 (function, three sizes of the grid and three of a block, bytes of shared
 * memory, 4 bytes that are not used, address of the parameters, extra, kernel, context), the list of parameters, which
 * has one, and that parameter: the words. A test compares the offsets with cuda.h.
 */
export const NODE = { function: 0, grid: 8, shared: 32, parameters: 40, bytes: 72 } as const;
const LIST = NODE.bytes,
  FIRST_WORD = LIST + 8,
  BYTES = FIRST_WORD + 8 * WORDS;

/** Throws if a kernel has too many parameters. */
export function wordsOf(key: string, values: readonly bigint[]): BigInt64Array {
  if (values.length > WORDS)
    throw new VerifyError('run', `kernel ${key} has ${values.length} parameters, and a GPU takes ${WORDS}`);
  return BigInt64Array.from(values);
}

export class Launcher {
  readonly #stream: CudaStream;
  readonly #memory = new ArrayBuffer(BYTES);
  readonly #view = new DataView(this.#memory);
  readonly #words = new BigInt64Array(this.#memory, FIRST_WORD);
  readonly #address: bigint;

  constructor(stream: CudaStream, koffi: typeof Koffi) {
    this.#stream = stream;
    this.#address = koffi.address(new Uint8Array(this.#memory));
    const list = this.#address + BigInt(LIST);
    this.#view.setBigUint64(NODE.parameters, list, true);
    this.#view.setBigUint64(LIST, this.#address + BigInt(FIRST_WORD), true);
    [1, 1, 1, 1, 1, 1].forEach((n, i) => {
      this.#view.setUint32(NODE.grid + 4 * i, n, true);
    });
  }

  /** Puts a kernel into the stream. */
  launch({ kernel, words }: Launch): void {
    this.#words.set(words);
    const { function: run, blocks, threads } = kernel;
    this.#stream.launch(run, blocks, threads, this.#address + BigInt(LIST));
  }

  /** Adds a kernel to a graph. Returns its node. */
  node(graph: bigint, { kernel, words }: Launch, after: BigUint64Array): bigint {
    this.#words.set(words);
    this.#view.setBigUint64(NODE.function, kernel.function, true);
    this.#view.setUint32(NODE.grid, kernel.blocks, true);
    this.#view.setUint32(NODE.grid + 12, kernel.threads, true);
    return this.#stream.make('cuGraphAddKernelNode_v2', graph, after, after.length, this.#address);
  }
}
