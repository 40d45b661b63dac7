// The bytes of a module (binary.ts) as WebAssembly text, for `dynamoe inspect --stage source --device wasm`. Only the
// sections and the instructions that binary.ts writes are known.
import { VerifyError } from '../../base/errors.ts';
import { F32, F64, I32, lane, lanes, memory, op, simd, V128, wide } from './binary.ts';

const TYPES = new Map<number, string>([
  [I32, 'i32'],
  [F32, 'f32'],
  [F64, 'f64'],
  [V128, 'v128'],
]);
const PLAIN = byCode(op);
const VECTOR = byCode(simd);
const LANE = byCode(lane);
const MEMORY = byCode(memory, ([code]) => code);
const WIDE = byCode(wide, ([code]) => code);
const MEMORY_LANE = byCode(lanes, ([code]) => code);
const TRUNCATE = ['i32.trunc_sat_f32_s', 'i32.trunc_sat_f32_u', 'i32.trunc_sat_f64_s', 'i32.trunc_sat_f64_u'];

function byCode<T>(table: Readonly<Record<string, T>>, codeOf = (entry: T): unknown => entry): Map<number, string> {
  return new Map(Object.entries(table).map(([name, entry]) => [Number(codeOf(entry)), name]));
}

/** Reads the parts of a module one after the other. */
class Reader {
  readonly #bytes: Uint8Array;
  at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get done(): boolean {
    return this.at >= this.#bytes.length;
  }
  byte(): number {
    return this.#bytes[this.at++];
  }
  unsigned(): number {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const b = this.byte();
      value += (b & 0x7f) * factor;
      if (b < 0x80) return value;
    }
  }
  signed(): number {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const b = this.byte();
      value |= (b & 0x7f) << shift;
      if (b < 0x80) return shift + 7 < 32 && b & 0x40 ? value | (-1 << (shift + 7)) : value;
    }
  }
  view(length: number): DataView {
    this.at += length;
    return new DataView(this.#bytes.buffer, this.#bytes.byteOffset + this.at - length, length);
  }
  text(): string {
    return new TextDecoder().decode(this.view(this.unsigned()));
  }
  list<T>(read: () => T): T[] {
    return Array.from({ length: this.unsigned() }, read);
  }
  types(): string[] {
    return this.list(() => TYPES.get(this.byte()) ?? '?');
  }
}

/** The text of a module. */
export function moduleText(bytes: Uint8Array): string {
  const r = new Reader(bytes),
    lines: string[] = [],
    imported: string[] = [];
  let types: string[] = [],
    declared: number[] = [],
    exported = new Map<number, string>();
  r.view(8);
  while (!r.done) {
    const section = r.byte();
    r.unsigned(); // bytes of the section
    if (section === 1)
      types = r.list(() => {
        r.byte();
        const [params, results] = [r.types(), r.types()];
        return [
          params.length ? ` (param ${params.join(' ')})` : '',
          results.length ? ` (result ${results[0]})` : '',
        ].join('');
      });
    else if (section === 2)
      r.list(() => {
        const from = r.text(),
          name = r.text();
        if (r.byte() === 0) {
          imported.push(name);
          lines.push(`(import "${from}" "${name}" (func $${name}${types[r.unsigned()]}))`);
        } else {
          const shared = r.byte() === 3 ? ' shared' : '';
          lines.push(`(import "${from}" "${name}" (memory ${r.unsigned()} ${r.unsigned()}${shared}))`);
        }
      });
    else if (section === 3) declared = r.list(() => r.unsigned());
    else if (section === 7)
      exported = new Map(
        r.list(() => {
          const name = r.text();
          r.byte();
          return [r.unsigned(), name];
        }),
      );
    else
      r.list(() => {
        const end = r.unsigned() + r.at,
          index = lines.filter((l) => l.startsWith('(func')).length,
          name = exported.get(imported.length + index);
        lines.push(`(func${name === undefined ? '' : ` (export "${name}")`}${types[declared[index]]}`);
        lines.push(...functionText(r, end, imported).map((l) => `  ${l}`), ')');
      });
  }
  return ['(module', ...lines.map((l) => `  ${l}`), ')'].join('\n');
}

/** Locals and instructions of a function that ends at byte `end`. */
function functionText(r: Reader, end: number, imported: readonly string[]): string[] {
  const locals = r.list(() => ({ count: r.unsigned(), type: TYPES.get(r.byte()) ?? '?' }));
  const lines = locals.map(({ count, type }) => `(local${` ${type}`.repeat(count)})`);
  let depth = 0;
  while (r.at < end - 1) {
    const text = instruction(r, imported);
    if (text === 'end' || text === 'else') depth--;
    lines.push('  '.repeat(depth) + text);
    if (text === 'if' || text === 'loop' || text === 'else') depth++;
  }
  r.byte(); // the end of the function
  return lines;
}

function instruction(r: Reader, imported: readonly string[]): string {
  const code = r.byte();
  switch (code) {
    case 0x03:
    case 0x04:
      r.byte(); // a block without a result
      return code === 0x03 ? 'loop' : 'if';
    case 0x0d:
      return `br_if ${r.unsigned()}`;
    case 0x10: {
      const index = r.unsigned();
      return `call ${index < imported.length ? `$${imported[index]}` : index}`;
    }
    case 0x20:
      return `local.get ${r.unsigned()}`;
    case 0x21:
      return `local.set ${r.unsigned()}`;
    case 0x22:
      return `local.tee ${r.unsigned()}`;
    case 0x41:
      return `i32.const ${r.signed()}`;
    case 0x43:
      return `f32.const ${floatText(r.view(4).getFloat32(0, true))}`;
    case 0x44:
      return `f64.const ${floatText(r.view(8).getFloat64(0, true))}`;
    case 0xfc:
      return TRUNCATE[r.byte()];
    case 0xfd:
      return vectorInstruction(r);
  }
  const load = MEMORY.get(code);
  return load === undefined ? known(PLAIN, code) : load + placeText(r);
}

function vectorInstruction(r: Reader): string {
  const code = r.unsigned();
  if (code === 12) {
    const words = r.view(16);
    return `v128.const i32x4 ${[0, 4, 8, 12].map((at) => words.getInt32(at, true)).join(' ')}`;
  }
  if (code === 13) return `i8x16.shuffle ${Array.from({ length: 16 }, () => r.byte()).join(' ')}`;
  const load = WIDE.get(code),
    ofLane = MEMORY_LANE.get(code),
    inLane = LANE.get(code);
  if (load !== undefined) return load + placeText(r);
  if (ofLane !== undefined) return `${ofLane}${placeText(r)} ${r.byte()}`;
  return inLane === undefined ? known(VECTOR, code) : `${inLane} ${r.byte()}`;
}

/** Alignment and offset of a load or store. */
function placeText(r: Reader): string {
  const align = 2 ** r.unsigned(),
    offset = r.unsigned();
  return `${offset === 0 ? '' : ` offset=${offset}`} align=${align}`;
}

function floatText(x: number): string {
  if (Number.isNaN(x)) return 'nan';
  return Object.is(x, -0) ? '-0' : String(x).replace('Infinity', 'inf');
}

function known(names: ReadonlyMap<number, string>, code: number): string {
  const name = names.get(code);
  if (name === undefined) throw new VerifyError('emit', `no text for the WebAssembly opcode ${code}`);
  return name;
}
