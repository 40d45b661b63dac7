// TensorBoard's event files: protocol buffers in records with checksums. In: steps with scalars and histograms; out:
// bytes. A record (TFRecord) is: length as uint64, its masked CRC-32C, the data, its masked CRC-32C, all
// little-endian. The messages are a small part of tensorflow/core/util/event.proto and framework/summary.proto; field
// numbers are given in the code.

export interface Histogram {
  /** Upper bounds of the buckets, ascending. */
  readonly limits: readonly number[];
  readonly counts: readonly number[];
  readonly min: number;
  readonly max: number;
  readonly sum: number;
  readonly sumSquares: number;
}

export interface Summary {
  readonly scalars?: Readonly<Record<string, number>>;
  readonly histograms?: Readonly<Record<string, Histogram>>;
}

/** The first record of a file. time: seconds since 1970. */
export const versionRecord = (time: number): Buffer =>
  record(message([double(1, time), bytes(3, Buffer.from('brain.Event:2'))]));

/** Marks that a run starts or resumes: readers discard what they have for `step` and later (SessionLog START). */
export const sessionRecord = (time: number, step: number): Buffer =>
  record(message([double(1, time), whole(2, step), bytes(7, whole(1, 1))]));

export function summaryRecord(time: number, step: number, { scalars = {}, histograms = {} }: Summary): Buffer {
  const values = [
    ...Object.entries(scalars).map(([tag, x]) => [bytes(1, Buffer.from(tag)), float(2, x)]),
    ...Object.entries(histograms).map(([tag, h]) => [bytes(1, Buffer.from(tag)), bytes(5, histogram(h))]),
  ];
  return record(message([double(1, time), whole(2, step), bytes(5, message(values.map((v) => bytes(1, message(v)))))]));
}

const histogram = (h: Histogram): Buffer =>
  message([
    double(1, h.min),
    double(2, h.max),
    double(
      3,
      h.counts.reduce((a, b) => a + b, 0),
    ),
    double(4, h.sum),
    double(5, h.sumSquares),
    bytes(6, doubles(h.limits)),
    bytes(7, doubles(h.counts)),
  ]);

/** The bytes of a record in the file. */
export function record(data: Buffer): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(data.length));
  return Buffer.concat([length, masked(length), data, masked(data)]);
}

function masked(data: Buffer): Buffer {
  const crc = crc32c(data),
    out = Buffer.alloc(4);
  out.writeUInt32LE((((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0);
  return out;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
  return c;
});

/** CRC-32C (Castagnoli). node:zlib has only the CRC-32 with another polynomial. */
export function crc32c(data: Uint8Array): number {
  let c = 0xffffffff;
  for (const byte of data) c = TABLE[(c ^ byte) & 0xff] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

// Protocol buffers: each field is a key (field number and wire type), then the value.
const message = (fields: readonly Buffer[]): Buffer => Buffer.concat(fields);

function varint(n: number): Buffer {
  const out: number[] = [];
  for (let rest = n; ; rest = Math.floor(rest / 128)) {
    out.push((rest % 128) + (rest >= 128 ? 128 : 0));
    if (rest < 128) return Buffer.from(out);
  }
}

/** n >= 0. */
const whole = (field: number, n: number): Buffer => Buffer.concat([varint(field * 8), varint(n)]);
const bytes = (field: number, data: Buffer): Buffer =>
  Buffer.concat([varint(field * 8 + 2), varint(data.length), data]);

function doubles(list: readonly number[]): Buffer {
  const out = Buffer.alloc(8 * list.length);
  list.forEach((x, i) => out.writeDoubleLE(x, 8 * i));
  return out;
}

const double = (field: number, x: number): Buffer => Buffer.concat([varint(field * 8 + 1), doubles([x])]);

function float(field: number, x: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeFloatLE(x);
  return Buffer.concat([varint(field * 8 + 5), out]);
}
