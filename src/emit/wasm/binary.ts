// WebAssembly modules as bytes: the code of functions, and the sections of a module. Instructions have the names and
// opcodes of the core specification 2.0 with relaxed SIMD (webassembly.github.io/spec).

export const I32 = 0x7f,
  F32 = 0x7d,
  F64 = 0x7c,
  V128 = 0x7b;
export type ValueType = typeof I32 | typeof F32 | typeof F64 | typeof V128;

/** Instructions of one byte. */
export const op = {
  'i32.eqz': 0x45,
  'i32.eq': 0x46,
  'i32.ne': 0x47,
  'i32.lt_s': 0x48,
  'i32.lt_u': 0x49,
  'i32.gt_s': 0x4a,
  'i32.gt_u': 0x4b,
  'i32.le_s': 0x4c,
  'i32.le_u': 0x4d,
  'i32.ge_s': 0x4e,
  'i32.ge_u': 0x4f,
  'i32.clz': 0x67,
  'f32.eq': 0x5b,
  'f32.ne': 0x5c,
  'f32.lt': 0x5d,
  'f32.gt': 0x5e,
  'f32.le': 0x5f,
  'f64.eq': 0x61,
  'f64.ne': 0x62,
  'f64.lt': 0x63,
  'f64.gt': 0x64,
  'f64.le': 0x65,
  'i32.add': 0x6a,
  'i32.sub': 0x6b,
  'i32.mul': 0x6c,
  'i32.div_s': 0x6d,
  'i32.div_u': 0x6e,
  'i32.rem_s': 0x6f,
  'i32.rem_u': 0x70,
  'i32.and': 0x71,
  'i32.or': 0x72,
  'i32.xor': 0x73,
  'i32.shl': 0x74,
  'i32.shr_s': 0x75,
  'i32.shr_u': 0x76,
  'i32.rotl': 0x77,
  'f32.abs': 0x8b,
  'f32.neg': 0x8c,
  'f32.floor': 0x8e,
  'f32.nearest': 0x90,
  'f32.sqrt': 0x91,
  'f32.add': 0x92,
  'f32.sub': 0x93,
  'f32.mul': 0x94,
  'f32.div': 0x95,
  'f64.abs': 0x99,
  'f64.neg': 0x9a,
  'f64.floor': 0x9c,
  'f64.nearest': 0x9e,
  'f64.sqrt': 0x9f,
  'f64.add': 0xa0,
  'f64.sub': 0xa1,
  'f64.mul': 0xa2,
  'f64.div': 0xa3,
  'f32.convert_i32_s': 0xb2,
  'f32.convert_i32_u': 0xb3,
  'f32.demote_f64': 0xb6,
  'f64.convert_i32_s': 0xb7,
  'f64.convert_i32_u': 0xb8,
  'f64.promote_f32': 0xbb,
  'i32.reinterpret_f32': 0xbc,
  'f32.reinterpret_i32': 0xbe,
  select: 0x1b,
  end: 0x0b,
  else: 0x05,
} as const;
export type Plain = keyof typeof op;

/** Vector instructions, after the prefix 0xfd. */
export const simd = {
  'i32x4.splat': 17,
  'f32x4.splat': 19,
  'f64x2.splat': 20,
  'i32x4.eq': 55,
  'i32x4.ne': 56,
  'i32x4.lt_s': 57,
  'i32x4.lt_u': 58,
  'i32x4.gt_s': 59,
  'i32x4.gt_u': 60,
  'i32x4.le_s': 61,
  'i32x4.le_u': 62,
  'f32x4.eq': 65,
  'f32x4.ne': 66,
  'f32x4.lt': 67,
  'f32x4.gt': 68,
  'f32x4.le': 69,
  'f32x4.ge': 70,
  'v128.not': 77,
  'v128.and': 78,
  'v128.or': 80,
  'v128.xor': 81,
  'v128.bitselect': 82,
  'i16x8.extend_low_i8x16_u': 137,
  'i16x8.narrow_i32x4_u': 134,
  'i32x4.extend_low_i16x8_u': 169,
  'i32x4.abs': 160,
  'i32x4.shl': 171,
  'i32x4.shr_s': 172,
  'i32x4.shr_u': 173,
  'i32x4.add': 174,
  'i32x4.sub': 177,
  'i32x4.mul': 181,
  'i32x4.neg': 161,
  'i32x4.min_s': 182,
  'i32x4.min_u': 183,
  'i32x4.max_s': 184,
  'i32x4.max_u': 185,
  'f32x4.floor': 104,
  'f32x4.nearest': 106,
  'f32x4.abs': 224,
  'f32x4.neg': 225,
  'f32x4.sqrt': 227,
  'f32x4.add': 228,
  'f32x4.sub': 229,
  'f32x4.mul': 230,
  'f32x4.div': 231,
  'f32x4.pmin': 234,
  'f32x4.pmax': 235,
  'i32x4.trunc_sat_f32x4_s': 248,
  'i32x4.trunc_sat_f32x4_u': 249,
  'f32x4.convert_i32x4_s': 250,
  'f32x4.convert_i32x4_u': 251,
  'f32x4.relaxed_madd': 261,
  'f64x2.relaxed_madd': 263,
} as const;
export type Simd = keyof typeof simd;

/** Loads and stores: opcode, and log2 of the alignment in bytes. */
export const memory = {
  'i32.load': [0x28, 2],
  'f32.load': [0x2a, 2],
  'f64.load': [0x2b, 3],
  'i32.load8_u': [0x2d, 0],
  'i32.load16_u': [0x2f, 1],
  'i32.store': [0x36, 2],
  'f32.store': [0x38, 2],
  'f64.store': [0x39, 3],
  'i32.store8': [0x3a, 0],
  'i32.store16': [0x3b, 1],
} as const;
/** Loads and stores of vectors, after the prefix 0xfd. */
export const wide = {
  'v128.load': [0, 2],
  'v128.load16x4_u': [4, 1],
  'v128.load32_splat': [9, 2],
  'v128.store': [11, 2],
  'v128.load32_zero': [92, 0],
} as const;
/** Loads and stores of one lane of a vector, after the prefix 0xfd. */
export const lanes = {
  'v128.load32_lane': [86, 2],
  'v128.load8_lane': [84, 0],
  'v128.load16_lane': [85, 1],
  'v128.store32_lane': [90, 2],
  'v128.store8_lane': [88, 0],
  'v128.store16_lane': [89, 1],
  'v128.store64_lane': [91, 1],
} as const;
/** Reads and replaces a lane, after the prefix 0xfd. */
export const lane = {
  'i32x4.extract_lane': 27,
  'i32x4.replace_lane': 28,
  'f32x4.extract_lane': 31,
  'f64x2.extract_lane': 33,
} as const;

export function unsigned(value: number): number[] {
  const out: number[] = [];
  for (let v = value; ;) {
    const low = v % 128;
    v = Math.floor(v / 128);
    out.push(v > 0 ? low | 0x80 : low);
    if (v === 0) return out;
  }
}

function signed(value: number): number[] {
  const out: number[] = [];
  for (let v = value | 0; ;) {
    const low = v & 0x7f;
    v >>= 7;
    const done = (v === 0 && !(low & 0x40)) || (v === -1 && (low & 0x40) !== 0);
    out.push(done ? low : low | 0x80);
    if (done) return out;
  }
}

const bytesOf = (make: (view: DataView) => void, length: number): number[] => {
  const view = new DataView(new ArrayBuffer(length));
  make(view);
  return [...new Uint8Array(view.buffer)];
};

/** A function that is being written. Locals are numbered after its parameters. */
export class Func {
  readonly params: readonly ValueType[];
  readonly results: readonly ValueType[];
  readonly #locals: ValueType[] = [];
  readonly code: number[] = [];

  constructor(params: readonly ValueType[], results: readonly ValueType[] = []) {
    this.params = params;
    this.results = results;
  }

  local(type: ValueType): number {
    return this.params.length + this.#locals.push(type) - 1;
  }

  op(...names: Plain[]): this {
    for (const n of names) this.code.push(op[n]);
    return this;
  }
  simd(...names: Simd[]): this {
    for (const n of names) this.code.push(0xfd, ...unsigned(simd[n]));
    return this;
  }
  /** Reads lane `n` of the vector on the stack, or replaces it by the scalar on the stack. */
  lane(name: keyof typeof lane, n: number): this {
    this.code.push(0xfd, lane[name], n);
    return this;
  }
  memory(name: keyof typeof memory | keyof typeof wide, offset = 0): this {
    const narrow = name in memory;
    const [code, align] = narrow ? memory[name as keyof typeof memory] : wide[name as keyof typeof wide];
    this.code.push(...(narrow ? [code] : [0xfd, ...unsigned(code)]), align, ...unsigned(offset));
    return this;
  }
  /** Loads into, or stores from, one lane of a vector. */
  memoryLane(name: keyof typeof lanes, n: number, offset = 0): this {
    const [code, align] = lanes[name];
    this.code.push(0xfd, code, align, ...unsigned(offset), n);
    return this;
  }
  i32(value: number): this {
    this.code.push(0x41, ...signed(value));
    return this;
  }
  f32(value: number): this {
    this.code.push(
      0x43,
      ...bytesOf((v) => {
        v.setFloat32(0, value, true);
      }, 4),
    );
    return this;
  }
  f64(value: number): this {
    this.code.push(
      0x44,
      ...bytesOf((v) => {
        v.setFloat64(0, value, true);
      }, 8),
    );
    return this;
  }
  /** A vector of four 32-bit words. */
  v128(words: readonly number[]): this {
    this.code.push(
      0xfd,
      12,
      ...bytesOf((v) => {
        words.forEach((w, i) => {
          v.setInt32(4 * i, w, true);
        });
      }, 16),
    );
    return this;
  }
  shuffle(...bytes: readonly number[]): this {
    this.code.push(0xfd, 13, ...bytes);
    return this;
  }
  get(...indices: number[]): this {
    for (const index of indices) this.code.push(0x20, ...unsigned(index));
    return this;
  }
  set(index: number): this {
    this.code.push(0x21, ...unsigned(index));
    return this;
  }
  tee(index: number): this {
    this.code.push(0x22, ...unsigned(index));
    return this;
  }
  call(index: number): this {
    this.code.push(0x10, ...unsigned(index));
    return this;
  }
  /**
   * Float to integer: truncated, clamped to the range, NaN is 0. kind: 0 f32 to signed, 1 f32 to unsigned, 2 and 3 the
   * same for f64.
   */
  truncate(kind: 0 | 1 | 2 | 3): this {
    this.code.push(0xfc, kind);
    return this;
  }

  if(body: () => void, otherwise?: () => void): this {
    this.code.push(0x04, 0x40);
    body();
    if (otherwise) {
      this.op('else');
      otherwise();
    }
    return this.op('end');
  }

  /** Moves what is on the stack to a new local; gives the local. */
  keep(type: ValueType): number {
    const index = this.local(type);
    this.set(index);
    return index;
  }

  /** while (index + step <= end) { body; index += step }, signed; `end` is a local. */
  loop(index: number, end: number, step: number, body: () => void): this {
    const more = (): void => {
      this.get(index);
      if (step > 1) this.i32(step).op('i32.add');
      this.get(end).op('i32.le_s');
    };
    const moreOne = (): void => {
      this.get(index, end).op('i32.lt_s');
    };
    const test = step > 1 ? more : moreOne;
    test();
    return this.if(() => {
      this.code.push(0x03, 0x40);
      body();
      this.get(index).i32(step).op('i32.add').set(index);
      test();
      this.code.push(0x0d, 0);
      this.op('end');
    });
  }

  bytes(): number[] {
    const groups: [number, ValueType][] = [];
    for (const t of this.#locals) {
      const last = groups[groups.length - 1];
      if (last?.[1] === t) last[0]++;
      else groups.push([1, t]);
    }
    const head = [...unsigned(groups.length), ...groups.flatMap(([n, t]) => [...unsigned(n), t])];
    return [...unsigned(head.length + this.code.length + 1), ...head, ...this.code, 0x0b];
  }
}

export interface Import {
  readonly name: string;
  readonly params: readonly ValueType[];
  readonly results: readonly ValueType[];
}

/** A module with an imported memory `env.memory`. Functions that are imported from `env` have the first numbers. */
export class ModuleWriter {
  readonly #imports: readonly Import[];
  readonly #functions: { readonly f: Func; readonly name: string | null }[] = [];

  constructor(imports: readonly Import[] = []) {
    this.#imports = imports;
  }

  imported(name: string): number {
    return this.#imports.findIndex((i) => i.name === name);
  }

  /** Adds a function; gives its number. */
  add(f: Func, name: string | null): number {
    return this.#imports.length + this.#functions.push({ f, name }) - 1;
  }

  bytes(memory: { readonly shared: boolean; readonly pages: number }): Uint8Array<ArrayBuffer> {
    const types: string[] = [],
      table: number[][] = [];
    const typeOf = ({ params, results }: { params: readonly ValueType[]; results: readonly ValueType[] }): number => {
      const bytes = [0x60, params.length, ...params, results.length, ...results],
        key = bytes.join();
      let index = types.indexOf(key);
      if (index < 0) {
        index = types.push(key) - 1;
        table.push(bytes);
      }
      return index;
    };
    const text = (s: string): number[] => {
      const b = [...new TextEncoder().encode(s)];
      return [...unsigned(b.length), ...b];
    };
    const section = (id: number, items: readonly (readonly number[])[]): Uint8Array => {
      const count = unsigned(items.length),
        size = count.length + items.reduce((n, i) => n + i.length, 0),
        head = [id, ...unsigned(size)];
      const out = new Uint8Array(head.length + size);
      out.set(head);
      out.set(count, head.length);
      let at = head.length + count.length;
      for (const i of items) {
        out.set(i, at);
        at += i.length;
      }
      return out;
    };
    const limits = memory.shared
      ? [3, ...unsigned(1), ...unsigned(memory.pages)]
      : [1, ...unsigned(1), ...unsigned(memory.pages)];
    const imports = [
      [...text('env'), ...text('memory'), 2, ...limits],
      ...this.#imports.map((i) => [...text('env'), ...text(i.name), 0, ...unsigned(typeOf(i))]),
    ];
    const declared = this.#functions.map(({ f }) => unsigned(typeOf(f)));
    const exported = this.#functions.flatMap(({ name }, i) =>
      name === null ? [] : [[...text(name), 0, ...unsigned(this.#imports.length + i)]],
    );
    const parts = [
      Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0),
      section(1, table),
      section(2, imports),
      section(3, declared),
      section(7, exported),
      section(
        10,
        this.#functions.map(({ f }) => f.bytes()),
      ),
    ];
    const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
    let at = 0;
    for (const p of parts) {
      out.set(p, at);
      at += p.length;
    }
    return out;
  }
}
