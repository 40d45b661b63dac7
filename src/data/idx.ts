// The IDX format of MNIST and similar datasets. In: a file, gzipped or not; out: its shape and unsigned bytes. Layout:
// 0, 0, element type (0x08 = unsigned byte), number of dimensions; each dimension as big-endian uint32; the elements.
// The header says how many bytes there must be: no more than that is read or unpacked, so that a small gzip file cannot
// fill the memory.
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { UserError } from '../base/errors.ts';
import { codeOf, fault } from '../io/fault.ts';
import { freeMemory } from '../io/memory.ts';
import { showBytes } from '../plan/print.ts';

const UNSIGNED_BYTE = 0x08;
const BYTES_EACH = 5; // bytes of memory for each element: 1 as it is read, 4 as float32 or int32

export interface Idx {
  readonly shape: readonly number[];
  readonly data: Uint8Array;
} // row-major

/** Bytes in front of the elements. */
export const idxHeader = (rank: number): number => 4 + 4 * rank;

/**
 * Reads an IDX file of unsigned bytes with `rank` dimensions. Rejects with a UserError that names file, offset and
 * expectation; where the file holds more than its header says, after the first byte that is too many.
 */
export async function readIdx(path: string, rank: number): Promise<Idx> {
  const pieces = createReadStream(path)[Symbol.asyncIterator]() as AsyncIterableIterator<Buffer>;
  const first = await pieces.next().catch((error: unknown) => {
    throw fault('read', path, error);
  });
  const head = first.done === true ? Buffer.alloc(0) : first.value,
    zipped = head[0] === 0x1f && head[1] === 0x8b;
  let taken = 0; // bytes of the file
  async function* whole(): AsyncGenerator<Buffer, void, undefined> {
    taken += head.length;
    yield head;
    for await (const piece of pieces) {
      taken += piece.length;
      yield piece;
    }
  }
  if (!zipped) {
    const size = await stat(path).then(
      (found) => (found.isFile() ? found.size : null),
      () => null,
    );
    return read(path, rank, whole(), size).catch((error: unknown) => {
      throw fault('read', path, error);
    });
  }
  try {
    return await pipeline(whole, createGunzip(), (unpacked) =>
      read(path, rank, unpacked as AsyncIterable<Buffer>, null),
    );
  } catch (error) {
    if (error instanceof UserError) throw error;
    const code = codeOf(error);
    if (code !== undefined && !code.startsWith('Z_')) throw fault('read', path, error);
    const why =
      code === 'Z_BUF_ERROR'
        ? `the stream breaks off at the file's end, byte ${taken}`
        : error instanceof Error
          ? error.message
          : String(error);
    throw new UserError(
      `${path}: expected a whole gzip stream from byte 0, found that it cannot be unpacked: ${why}`,
      'download or copy the file again',
      error,
    );
  }
}

/** `size`: bytes of the file, if known; else the error does not say how many bytes there are too many. */
async function read(path: string, rank: number, pieces: AsyncIterable<Buffer>, size: number | null): Promise<Idx> {
  const start = idxHeader(rank),
    kept: Buffer[] = [];
  let bytes = 0,
    shape: number[] | null = null,
    length = 0;
  for await (const piece of pieces) {
    kept.push(piece);
    bytes += piece.length;
    if (!shape && bytes >= start) {
      shape = shapeOf(path, rank, Buffer.concat(kept));
      length = shape.reduce((n, d) => n * d, 1);
      if (size === null || size - start === length) checkRoom(path, shape, length);
    }
    if (shape && bytes - start > length) break;
  }
  if (!shape) shape = shapeOf(path, rank, Buffer.concat(kept));
  const found = bytes - start;
  if (found !== length) {
    const more = size === null ? 'more' : `${size - start}`;
    throw broken(path, start, `${length} bytes (${shape.join(' x ')})`, found > length ? more : `${found}`);
  }
  return { shape, data: Buffer.concat(kept).subarray(start) };
}

/** The sizes in the header. */
function shapeOf(path: string, rank: number, bytes: Buffer): number[] {
  const need = (offset: number, length: number, what: string): void => {
    if (bytes.length < offset + length) throw broken(path, offset, what, `the file ends at byte ${bytes.length}`);
  };
  need(0, 4, 'a magic number of 4 bytes');
  const magic = bytes.readUInt32BE(0),
    wanted = (UNSIGNED_BYTE << 8) | rank;
  if (magic !== wanted)
    throw broken(path, 0, `the magic number ${hex(wanted)} (unsigned bytes, ${dimensions(rank)})`, hex(magic));
  need(4, 4 * rank, `the sizes of ${dimensions(rank)}`);
  return Array.from({ length: rank }, (_, d) => bytes.readUInt32BE(4 + 4 * d));
}

function checkRoom(path: string, shape: readonly number[], length: number): void {
  const need = length * BYTES_EACH,
    free = freeMemory();
  if (need <= free) return;
  throw new UserError(
    `${path} holds ${length} elements (${shape.join(' x ')}), which take ${showBytes(need)} of ` +
      `memory; ${showBytes(free)} are free`,
    'check that it is the right file: its header gives this number',
  );
}

const hex = (n: number): string => `0x${n.toString(16).padStart(8, '0')}`;
const dimensions = (n: number): string => `${n} ${n === 1 ? 'dimension' : 'dimensions'}`;

const broken = (path: string, offset: number, expected: string, found: string): UserError =>
  new UserError(
    `${path}: at byte ${offset}, expected ${expected}, found ${found}`,
    'check that it is a complete IDX file (after unpacking)',
  );
