// The IDX format of MNIST and its kin. In: a file, gzipped or not; out: its shape and unsigned bytes.
// Layout: 0, 0, element type (0x08 = unsigned byte), number of dimensions; each dimension as big-endian uint32; the elements.
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import { UserError } from '../base/errors.ts';
import { codeOf, fault } from '../io/fault.ts';

const UNSIGNED_BYTE = 0x08;
const MAX_BYTES = 2 ** 32;

export interface Idx { readonly shape: readonly number[]; readonly data: Uint8Array } // row-major

/** Reads an IDX file of unsigned bytes with `rank` dimensions. Rejects with a UserError that names file, offset and expectation. */
export async function readIdx(path: string, rank: number): Promise<Idx> {
  const file = await readFile(path).catch((error: unknown) => { throw fault('read', path, error); });
  const bytes = file[0] === 0x1f && file[1] === 0x8b ? await unzip(path, file) : file;
  const need = (offset: number, length: number, what: string): void => {
    if (bytes.length < offset + length) throw broken(path, offset, what, `the file ends at byte ${bytes.length}`);
  };
  need(0, 4, 'a magic number of 4 bytes');
  const magic = bytes.readUInt32BE(0), wanted = (UNSIGNED_BYTE << 8) | rank;
  if (magic !== wanted) throw broken(path, 0, `the magic number ${hex(wanted)} (unsigned bytes, ${dimensions(rank)})`, hex(magic));
  need(4, 4 * rank, `the sizes of ${dimensions(rank)}`);
  const shape = Array.from({ length: rank }, (_, d) => bytes.readUInt32BE(4 + 4 * d));
  const start = 4 + 4 * rank, length = shape.reduce((n, d) => n * d, 1);
  if (bytes.length - start !== length) {
    throw broken(path, start, `${length} bytes (${shape.join(' x ')})`, `${bytes.length - start}`);
  }
  return { shape, data: bytes.subarray(start) };
}

async function unzip(path: string, file: Buffer): Promise<Buffer> {
  try {
    return await promisify(gunzip)(file, { maxOutputLength: MAX_BYTES });
  } catch (error) {
    const why = codeOf(error) === 'Z_BUF_ERROR' ? `the stream breaks off at the file's end, byte ${file.length}`
      : codeOf(error) === 'ERR_BUFFER_TOO_LARGE' ? `it holds more than ${MAX_BYTES} bytes` : error instanceof Error ? error.message : String(error);
    throw new UserError(`${path}: expected a whole gzip stream from byte 0, found that it cannot be unpacked: ${why}`,
      'download or copy the file again', error);
  }
}

const hex = (n: number): string => `0x${n.toString(16).padStart(8, '0')}`;
const dimensions = (n: number): string => `${n} ${n === 1 ? 'dimension' : 'dimensions'}`;

const broken = (path: string, offset: number, expected: string, found: string): UserError => new UserError(
  `${path}: at byte ${offset}, expected ${expected}, found ${found}`, 'is it an IDX file (after unpacking), and all of it?');
