// The safetensors format (github.com/huggingface/safetensors): 8 bytes of header length (little-endian), a JSON header
// { name: { dtype, shape, data_offsets: [begin, end] }, __metadata__: { string: string } }, then the tensors' bytes, row-major and
// little-endian, in order and without gaps. Here: the header, both ways. In: names, dtypes and shapes; out: bytes, and back.
// Hosts are taken to be little-endian, as every platform that Node supports with WebAssembly or our native kernels is.
import type { DType } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';

/** Element types that a file may hold, with their bytes. Ours are seven of them; see `safetensors-data.ts` for the others. */
const BYTES = {
  BOOL: 1, U8: 1, I8: 1, F8_E5M2: 1, F8_E4M3: 1, I16: 2, U16: 2, F16: 2, BF16: 2,
  I32: 4, U32: 4, F32: 4, F64: 8, I64: 8, U64: 8, C64: 8,
} as const;
export type FileDType = keyof typeof BYTES;

const NAMES = {
  float64: 'F64', float32: 'F32', bfloat16: 'BF16', float16: 'F16', int32: 'I32', uint32: 'U32', bool: 'BOOL',
} as const satisfies Record<DType, FileDType>;

export interface TensorSpec { readonly name: string; readonly dtype: DType; readonly shape: readonly number[] }

/** A tensor in a file: `begin` and `end` are byte offsets from the start of the file. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: FileDType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

export interface Header {
  readonly tensors: ReadonlyMap<string, TensorEntry>; // in the order of their data
  readonly metadata: ReadonlyMap<string, string>;
}

const MAX_HEADER = 100_000_000; // the reference implementation's limit
const METADATA = '__metadata__';

/** Bytes of `shape` elements of a file's dtype. */
const fileBytes = (dtype: FileDType, shape: readonly number[]): number => shape.reduce((n, d) => n * d, BYTES[dtype]);

/**
 * The order of tensors in a file: larger elements first, so that each tensor begins at a multiple of its element's size;
 * then by name, so that the same tensors give the same bytes.
 */
export function fileOrder<T extends TensorSpec>(specs: readonly T[]): T[] {
  const size = (t: T): number => BYTES[NAMES[t.dtype]];
  return [...specs].sort((a, b) => size(b) - size(a) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}

/** The bytes before the data, for tensors in `fileOrder`: length and JSON, padded with spaces to a multiple of 8. */
export function encodeHeader(specs: readonly TensorSpec[], metadata: Readonly<Record<string, string>> = {}): Uint8Array {
  const parts: string[] = [];
  const seen = new Set([METADATA]);
  if (Object.keys(metadata).length > 0) parts.push(`${JSON.stringify(METADATA)}:${JSON.stringify(metadata)}`);
  let at = 0;
  for (const { name, dtype, shape } of specs) {
    if (seen.has(name)) throw new UserError(`two tensors named ${JSON.stringify(name)} cannot be in one safetensors file`);
    seen.add(name);
    const end = at + fileBytes(NAMES[dtype], shape);
    parts.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype: NAMES[dtype], shape, data_offsets: [at, end] })}`);
    at = end;
  }
  const json = new TextEncoder().encode(`{${parts.join(',')}}`);
  const length = Math.ceil(json.length / 8) * 8;
  if (length > MAX_HEADER) throw new UserError(`a safetensors header of ${length} bytes is over the format's limit of ${MAX_HEADER}`);
  const bytes = new Uint8Array(8 + length).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(json, 8);
  return bytes;
}

/** The header's length from a file's first 8 bytes (fewer if the file is shorter), checked against the file's size. */
export function headerLength(first: Uint8Array, fileSize: number, where: string): number {
  if (first.length < 8) throw broken(where, 0, `8 bytes of header length, the file has ${fileSize}`);
  const length = new DataView(first.buffer, first.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER)) throw broken(where, 0, `a header of at most ${MAX_HEADER} bytes, found length ${length}`);
  if (8 + Number(length) > fileSize) throw broken(where, 0, `a header of ${length} bytes, the file has ${fileSize - 8} after its first 8`);
  return Number(length);
}

/** Reads and checks a header: `json` is the bytes after the length. Rejects gaps, overlaps and sizes that do not add up. */
export function parseHeader(json: Uint8Array, fileSize: number, where: string): Header {
  const start = 8 + json.length;
  const raw = parseJson(json, where);
  if (!isObject(raw)) throw broken(where, 8, 'a JSON object');
  const metadata = new Map<string, string>();
  const list: TensorEntry[] = [];
  for (const [name, value] of Object.entries(raw)) {
    if (name === METADATA) {
      if (!isObject(value)) throw broken(where, 8, `${METADATA} to be an object`);
      for (const [key, text] of Object.entries(value)) {
        if (typeof text !== 'string') throw broken(where, 8, `${METADATA}.${key} to be a string`);
        metadata.set(key, text);
      }
    } else {
      list.push(parseEntry(name, value, start, where));
    }
  }
  list.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let at = start;
  for (const t of list) {
    if (t.begin !== at) {
      throw broken(where, Math.min(at, t.begin), `tensor ${quote(t.name)} to begin at byte ${at}, it begins at ${t.begin}`);
    }
    at = t.end;
  }
  if (at !== fileSize) throw broken(where, Math.min(at, fileSize), `the file to end at byte ${at}, it has ${fileSize} bytes`);
  return { tensors: new Map(list.map((t) => [t.name, t])), metadata };
}

function parseEntry(name: string, value: unknown, start: number, where: string): TensorEntry {
  const bad = (what: string): UserError => broken(where, 8, `tensor ${quote(name)} to have ${what}`);
  if (!isObject(value)) throw bad('an object');
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isFileDType(dtype)) throw bad(`a known dtype (${Object.keys(BYTES).join(', ')}), found ${JSON.stringify(dtype)}`);
  if (!isSizes(shape)) throw bad(`a shape of whole numbers, found ${JSON.stringify(shape)}`);
  if (!isSizes(offsets) || offsets.length !== 2) throw bad(`two data_offsets, found ${JSON.stringify(offsets)}`);
  const [begin, end] = offsets, bytes = fileBytes(dtype, shape);
  if (end - begin !== bytes) throw bad(`${bytes} bytes (${dtype} [${shape.join(', ')}]), its data_offsets give ${end - begin}`);
  return { name, dtype, shape, begin: start + begin, end: start + end };
}

function parseJson(bytes: Uint8Array, where: string): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as unknown;
  } catch (error) {
    throw broken(where, 8, 'a header of JSON in UTF-8', error);
  }
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);
const isFileDType = (value: unknown): value is FileDType => typeof value === 'string' && Object.hasOwn(BYTES, value);
const isSizes = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((n) => typeof n === 'number' && Number.isSafeInteger(n) && n >= 0);
const quote = (name: string): string => JSON.stringify(name);

/** "FILE is not a sound safetensors file: at byte N, expected ..." */
export const broken = (where: string, offset: number, expected: string, cause?: unknown): UserError => new UserError(
  `${where} is not a sound safetensors file: at byte ${offset}, expected ${expected}`,
  'the file may be cut short or not a safetensors file at all; copy or download it again', cause);
