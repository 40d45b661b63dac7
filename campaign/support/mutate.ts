// Damages files: flips bits, changes numbers and JSON tokens, removes, doubles or exchanges pieces. In: bytes, and
// edits as plain JSON. Out: other bytes.
import fc from 'fast-check';

/** A place is taken modulo the file's length, or modulo the number of its tokens. */
export type Edit =
  | { readonly edit: 'flip'; readonly at: number; readonly bit: number }
  | {
      readonly edit: 'number';
      readonly at: number;
      readonly value: number;
      readonly bytes: 1 | 2 | 4 | 8;
      readonly big: boolean;
    }
  | { readonly edit: 'cut'; readonly at: number }
  | { readonly edit: 'remove'; readonly at: number; readonly count: number }
  | { readonly edit: 'double'; readonly at: number; readonly count: number }
  | { readonly edit: 'insert'; readonly at: number; readonly text: string }
  | { readonly edit: 'token'; readonly at: number; readonly text: string };

/** Places near the beginning are drawn often, because most formats have their header there. */
const at = fc.oneof(fc.nat(24), fc.nat(400), fc.nat(4000), fc.nat(100_000));
const TOKENS = [
  'null',
  'true',
  '0',
  '-1',
  '1.5',
  '1e999',
  '-0',
  '9007199254740993',
  '16777216',
  '2147483647',
  '4294967296',
  '1099511627776',
  '18446744073709551615',
  '1e-300',
  '""',
  '"x"',
  '[]',
  '{}',
  '[[]]',
  '[1,2]',
  '{"a":1}',
  '"__proto__"',
  '"constructor"',
  '"\\u0000"',
  '"\\ud800"',
  ',',
  '}',
  ']',
  ':',
  '"dropless"',
  '"F32"',
  '"BF16"',
  '"I64"',
  '"U64"',
  '"F8_E4M3"',
  '"reference"',
  '"adamW"',
  '"1"',
  '"step"',
];
const VALUES = [
  0,
  1,
  2,
  127,
  128,
  255,
  256,
  65535,
  65536,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 53 - 1,
  2 ** 53,
  2 ** 63,
  -1,
];

export const edits: fc.Arbitrary<Edit[]> = fc.array(
  fc.oneof<fc.Arbitrary<Edit>[]>(
    fc.record({ edit: fc.constant('flip' as const), at, bit: fc.nat(7) }),
    fc.record({
      edit: fc.constant('number' as const),
      at,
      value: fc.constantFrom(...VALUES),
      bytes: fc.constantFrom<(1 | 2 | 4 | 8)[]>(1, 2, 4, 8),
      big: fc.boolean(),
    }),
    fc.record({ edit: fc.constant('cut' as const), at }),
    fc.record({ edit: fc.constant('remove' as const), at, count: fc.integer({ min: 1, max: 40 }) }),
    fc.record({ edit: fc.constant('double' as const), at, count: fc.integer({ min: 1, max: 200 }) }),
    fc.record({
      edit: fc.constant('insert' as const),
      at,
      text: fc.oneof(fc.constantFrom(...TOKENS), fc.string({ unit: 'binary', maxLength: 6 })),
    }),
    fc.record({ edit: fc.constant('token' as const), at: fc.nat(400), text: fc.constantFrom(...TOKENS) }),
    fc.record({ edit: fc.constant('token' as const), at: fc.nat(400), text: fc.constantFrom(...TOKENS) }),
  ),
  { maxLength: 5 },
);

const TOKEN = /"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null|[{}[\]:,]/g;

export function mutated(bytes: Uint8Array, list: readonly Edit[]): Buffer {
  return list.reduce<Buffer>((all, edit) => apply(all, edit), Buffer.from(bytes));
}

function apply(bytes: Buffer, e: Edit): Buffer {
  const place = bytes.length === 0 ? 0 : e.at % bytes.length;
  switch (e.edit) {
    case 'flip': {
      const out = Buffer.from(bytes);
      if (out.length > 0) out[place] ^= 1 << e.bit;
      return out;
    }
    case 'number': {
      const out = Buffer.from(bytes),
        word = Buffer.alloc(8);
      word.writeBigInt64LE(BigInt.asIntN(64, BigInt(e.value)));
      const value = word.subarray(0, e.bytes);
      if (e.big) value.reverse();
      value.copy(out, place);
      return out;
    }
    case 'cut':
      return bytes.subarray(0, place);
    case 'remove':
      return Buffer.concat([bytes.subarray(0, place), bytes.subarray(place + e.count)]);
    case 'double':
      return Buffer.concat([bytes.subarray(0, place), bytes.subarray(place, place + e.count), bytes.subarray(place)]);
    case 'insert':
      return Buffer.concat([bytes.subarray(0, place), Buffer.from(e.text), bytes.subarray(place)]);
    case 'token': {
      const text = bytes.toString('latin1'),
        tokens = [...text.matchAll(TOKEN)];
      if (tokens.length === 0) return bytes;
      const { index, 0: old } = tokens[e.at % tokens.length];
      return Buffer.from(`${text.slice(0, index)}${e.text}${text.slice(index + old.length)}`, 'latin1');
    }
  }
}
