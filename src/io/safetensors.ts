// The header of the safetensors format (github.com/huggingface/safetensors), both ways. A file is: 8 bytes of header
// length (little-endian), a JSON header { name: { dtype, shape, data_offsets: [begin, end] }, __metadata__: { string:
// string } }, then the tensors' bytes, row-major and little-endian, in order and without gaps. Hosts are assumed to be
// little-endian, as is every platform that Node supports with WebAssembly or our native kernels.
import type { DType } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';

/**
 * Element types of the format, with their size in bits. Seven of them are types of DynaMoE; `safetensors-data.ts`
 * handles the others.
 */
const BITS = {
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  BOOL: 8,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  F64: 64,
  I64: 64,
  U64: 64,
  C64: 64,
} as const;
export type FileDType = keyof typeof BITS;

const NAMES = {
  float64: 'F64',
  float32: 'F32',
  bfloat16: 'BF16',
  float16: 'F16',
  int32: 'I32',
  uint32: 'U32',
  bool: 'BOOL',
} as const satisfies Record<DType, FileDType>;

export interface TensorSpec {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** A tensor in a file: `begin` and `end` are byte offsets from the start of the file. */
export interface TensorEntry {
  readonly name: string;
  /** The dtype in the file: a FileDType, or a type of a later version of the format. */
  readonly dtype: string;
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

/** Bytes of a tensor of a file's dtype, rounded up to whole bytes; null: the dtype is unknown. */
const fileBytes = (dtype: string, shape: readonly number[]): number | null =>
  isFileDType(dtype) ? Math.ceil(shape.includes(0) ? 0 : shape.reduce((n, d) => n * d, BITS[dtype]) / 8) : null;

/**
 * Sorts tensors for a file: by element size, largest first, so that each tensor is aligned to its element size; then
 * by name, so that the same tensors give the same bytes.
 */
export function fileOrder<T extends TensorSpec>(specs: readonly T[]): T[] {
  const size = (t: T): number => BITS[NAMES[t.dtype]];
  return [...specs].sort((a, b) => size(b) - size(a) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}

/**
 * The bytes before the data, for tensors in `fileOrder`: length and JSON, padded with spaces to a multiple of 8 bytes.
 */
export function encodeHeader(
  specs: readonly TensorSpec[],
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const parts: string[] = [];
  const seen = new Set([METADATA]);
  if (Object.keys(metadata).length > 0) parts.push(`${JSON.stringify(METADATA)}:${JSON.stringify(metadata)}`);
  let at = 0;
  for (const { name, dtype, shape } of specs) {
    if (seen.has(name))
      throw new UserError(`two tensors named ${JSON.stringify(name)} cannot be in one safetensors file`);
    seen.add(name);
    const end = at + (fileBytes(NAMES[dtype], shape) ?? 0);
    parts.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype: NAMES[dtype], shape, data_offsets: [at, end] })}`);
    at = end;
  }
  const json = new TextEncoder().encode(`{${parts.join(',')}}`);
  const length = Math.ceil(json.length / 8) * 8;
  if (length > MAX_HEADER)
    throw new UserError(`a safetensors header of ${length} bytes is over the format's limit of ${MAX_HEADER}`);
  const bytes = new Uint8Array(8 + length).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(json, 8);
  return bytes;
}

/** The header's length from a file's first 8 bytes (fewer if the file is shorter), checked against the file's size. */
export function headerLength(first: Uint8Array, fileSize: number, where: string): number {
  if (first.length < 8) throw cutShort(where, 0, `8 bytes of header length, the file has ${fileSize}`);
  const length = new DataView(first.buffer, first.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER))
    throw cutShort(where, 0, `a header of at most ${MAX_HEADER} bytes, found length ${length}`);
  if (8 + Number(length) > fileSize)
    throw cutShort(where, 0, `a header of ${length} bytes, the file has ${fileSize - 8} after its first 8`);
  return Number(length);
}

/**
 * Parses and checks a header. json: the bytes after the length. Rejects gaps, overlaps and sizes that do not match.
 * Metadata values that are not strings are kept as JSON text; metadata that is not an object is ignored.
 */
export function parseHeader(json: Uint8Array, fileSize: number, where: string): Header {
  const start = 8 + json.length,
    raw = parseJson(json, where);
  if (!isObject(raw)) throw broken(where, 8, 'a JSON object');
  const metadata = new Map<string, string>();
  const list: TensorEntry[] = [];
  for (const [name, value] of Object.entries(raw)) {
    if (name !== METADATA) list.push(parseEntry(name, value, start, where));
    // The format requires strings, but some writers put numbers, objects or null. Tensors do not depend on these.
    else if (isObject(value))
      for (const [key, text] of Object.entries(value))
        metadata.set(key, typeof text === 'string' ? text : JSON.stringify(text));
  }
  list.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let at = start,
    before = 'the header';
  for (const t of list) {
    if (t.begin !== at)
      throw broken(
        where,
        Math.min(at, t.begin),
        `tensor ${quote(t.name)} to begin at byte ${at}, where ${before} ends; it begins at ${t.begin}`,
      );
    if (t.end > fileSize)
      throw broken(
        where,
        fileSize,
        `tensor ${quote(t.name)} to end in the file, which has ${fileSize} bytes; it ends at ${t.end}`,
        CUT,
      );
    at = t.end;
    before = quote(t.name);
  }
  if (at !== fileSize)
    throw broken(where, at, `the file to end at byte ${at}, where ${before} ends; it has ${fileSize} bytes`);
  return { tensors: new Map(list.map((t) => [t.name, t])), metadata };
}

function parseEntry(name: string, value: unknown, start: number, where: string): TensorEntry {
  const bad = (what: string): UserError => broken(where, 8, `tensor ${quote(name)} to have ${what}`);
  if (!isObject(value)) throw bad(`an object, found ${JSON.stringify(value)}`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string') throw bad(`a dtype, found ${JSON.stringify(dtype)}`);
  if (!isSizes(shape)) throw bad(`a shape of whole numbers, found ${JSON.stringify(shape)}`);
  if (!isSizes(offsets) || offsets.length !== 2) throw bad(`two data_offsets, found ${JSON.stringify(offsets)}`);
  const [begin, end] = offsets,
    bytes = fileBytes(dtype, shape);
  if (end < begin) throw bad(`data_offsets that ascend, found ${JSON.stringify(offsets)}`);
  // For an unknown dtype, the number of bytes is unknown and is not checked.
  if (bytes !== null && end - begin !== bytes)
    throw bad(`${bytes} bytes (${dtype} [${shape.join(', ')}]), its data_offsets give ${end - begin}`);
  return { name, dtype, shape, begin: start + begin, end: start + end };
}

function parseJson(bytes: Uint8Array, where: string): unknown {
  let text: string, value: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text) as unknown;
  } catch (error) {
    throw broken(where, 8, 'a header of JSON in UTF-8', CUT, error);
  }
  const twice = repeatedKey(text);
  if (twice !== null) throw broken(where, 8, `each name once in the header, found ${twice} twice`);
  return value;
}

/**
 * The first key that occurs twice in an object of a JSON text; null: none. JSON.parse would silently use the last one.
 */
function repeatedKey(json: string): string | null {
  const open: Set<string>[] = []; // the keys so far of each open object (or list)
  let last = '';
  for (const [token] of json.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\]:]/g)) {
    if (token === '{' || token === '[') open.push(new Set());
    else if (token === '}' || token === ']') open.pop();
    else if (token === ':') {
      const names = open[open.length - 1],
        name = JSON.parse(last) as string;
      if (names.has(name)) return last;
      names.add(name);
    } else last = token;
  }
  return null;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isFileDType = (value: string): value is FileDType => Object.hasOwn(BITS, value);
const isSizes = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((n) => typeof n === 'number' && Number.isSafeInteger(n) && n >= 0);
const quote = (name: string): string => JSON.stringify(name);

const CUT = 'the file may be cut short or not a safetensors file at all; copy or download it again';

/** An error "FILE is not a valid safetensors file: at byte N, expected ...". */
export const broken = (
  where: string,
  offset: number,
  expected: string,
  hint = 'the file is damaged, or its writer made a mistake; copy or write it again',
  cause?: unknown,
): UserError =>
  new UserError(`${where} is not a valid safetensors file: at byte ${offset}, expected ${expected}`, hint, cause);

/** The same error for a file that ends too early. */
export const cutShort = (where: string, offset: number, expected: string): UserError =>
  broken(where, offset, expected, CUT);
