// Expressions as WebAssembly. In a loop whose iterations are independent, an expression that depends on the loop's
// variable is computed for four iterations at once, as a vector; any other is computed once, as a scalar. Bools are 0
// or 1 in scalars and all bits of a lane in vectors; 16-bit floats are the low half of a lane.
import { VerifyError } from '../../base/errors.ts';
import { isHalf, toHalf } from '../../base/half.ts';
import { children, minOf, type Expr, type Scalar, type Var } from '../../kernel/expr.ts';
import type { ScalarFunction } from '../../kernel/functions.ts';
import { strideOf } from '../../kernel/rewrite.ts';
import { I32, V128, type ValueType } from './binary.ts';
import type { Frame } from './frame.ts';
import { scalarOperation } from './scalar-operations.ts';
import { vectorOperation } from './vector-operations.ts';
import { loadScalar, pushConstant, sizeOf, storeScalar, typeOf } from './words.ts';

/** The bits of a lane that holds a number. */
function laneOf(value: number, dtype: Scalar): number {
  if (dtype === 'float32') return new Int32Array(Float32Array.of(value).buffer)[0];
  if (isHalf(dtype)) return toHalf(dtype, [value])[0];
  return dtype === 'bool' ? -(value ? 1 : 0) : Math.trunc(value);
}

/** The values of one statement, or of several simultaneous ones: a value that is used twice is computed once. */
export class Values {
  readonly frame: Frame;
  /** The variable for which four successive values are computed at once. */
  readonly lane: Var | null;
  /** The first of the four is lane + shift, in loops that compute several vectors in one iteration. */
  readonly shift: number;
  readonly #scalars: Map<Expr, number>;
  readonly #vectors: Map<Expr, number>;
  /** Addresses without the part that depends on the lane variable, by buffer or local and index. */
  readonly #starts: Map<string, number>;
  readonly #memo = new Map<Expr, boolean>();
  #uses = new Map<Expr, number>();

  constructor(frame: Frame, lane: Var | null = null, outer?: Values, shift = 0) {
    this.frame = frame;
    this.lane = lane;
    this.shift = shift;
    this.#scalars = new Map(outer === undefined ? undefined : outer.#scalars);
    this.#vectors = new Map(outer !== undefined && outer.lane === lane ? outer.#vectors : undefined);
    this.#starts = new Map(outer !== undefined && outer.lane === lane ? outer.#starts : undefined);
  }

  isVector(e: Expr): boolean {
    const known = this.#memo.get(e);
    if (known !== undefined) return known;
    const answer = e === this.lane || e.k === 'sum' || children(e).some((c) => this.isVector(c));
    this.#memo.set(e, answer);
    return answer;
  }

  /** Says that a value is in a local already. */
  bind(e: Expr, local: number, vector = false): void {
    (vector ? this.#vectors : this.#scalars).set(e, local);
    this.#memo.set(e, vector);
  }

  /** Must be called with all expressions before they are computed: values that they share are then kept in locals. */
  share(roots: readonly Expr[]): this {
    const uses = new Map<Expr, number>();
    const visit = (e: Expr): void => {
      const n = uses.get(e) ?? 0;
      uses.set(e, n + 1);
      if (n === 0) children(e).forEach(visit);
    };
    roots.forEach(visit);
    this.#uses = uses;
    return this;
  }

  // ---- scalars ----

  /** Pushes the value of `e`. */
  scalar(e: Expr): void {
    const { f } = this.frame,
      known = this.#scalars.get(e);
    if (known !== undefined) {
      f.get(known);
      return;
    }
    this.#scalar(e);
    if ((this.#uses.get(e) ?? 0) > 1 && (e.k === 'op' || e.k === 'load' || e.k === 'linear')) {
      const local = f.local(typeOf(e.dtype));
      f.tee(local);
      this.#scalars.set(e, local);
    }
  }

  #scalar(e: Expr): void {
    const { f, vars, ints, locals, places } = this.frame;
    switch (e.k) {
      case 'var': {
        const v = vars.get(e);
        if (v === undefined) throw new VerifyError('emit', `${e.name} has no value here`);
        f.get(v);
        return;
      }
      case 'const':
        pushConstant(f, e.value, e.dtype);
        return;
      case 'int':
        f.get(ints[e.slot]);
        return;
      case 'linear':
        this.#linear(e.constant, e.terms);
        return;
      case 'load':
        this.loadAt(e.dtype, this.addressOf('load', e.buffer, e.index));
        return;
      case 'local':
        if (e.index === null) f.get(places[e.local]);
        else this.loadAt(locals[e.local].dtype, this.addressOf('local', e.local, e.index));
        return;
      case 'op':
        scalarOperation(this, e);
        return;
      default:
        throw new VerifyError('emit', `an expression of kind ${e.k} has no scalar value`);
    }
  }

  #linear(constant: number, terms: readonly (readonly [number, Expr])[]): void {
    const { f } = this.frame;
    let first = true;
    for (const [c, t] of terms) {
      this.scalar(t);
      if (c !== 1) f.i32(c).op('i32.mul');
      if (!first) f.op('i32.add');
      first = false;
    }
    if (first) f.i32(constant);
    else if (constant !== 0) f.i32(constant).op('i32.add');
  }

  /** Pushes an address; gives the constant offset for the memory instruction. */
  addressOf(kind: 'load' | 'local', which: number, index: Expr): number {
    const { f, buffers, locals, addresses, places, scratch } = this.frame;
    const bytes = sizeOf((kind === 'load' ? buffers : locals)[which].dtype);
    const fixed = kind === 'local' ? places[which] : 0;
    f.get(kind === 'load' ? addresses[which] : scratch);
    if (index.k === 'const' && index.value >= 0) return fixed + index.value * bytes;
    let rest = 0;
    if (index.k === 'linear' && index.constant > 0 && !this.#scalars.has(index) && minOf(index, 0) >= index.constant) {
      rest = index.constant;
      this.#linear(0, index.terms);
    } else this.scalar(index);
    if (bytes > 1) f.i32(Math.log2(bytes)).op('i32.shl');
    f.op('i32.add');
    return fixed + rest * bytes;
  }

  loadAt(dtype: Scalar, offset: number): void {
    loadScalar(this.frame.f, dtype, offset);
  }

  storeAt(dtype: Scalar, offset: number): void {
    storeScalar(this.frame.f, dtype, offset);
  }

  // ---- vectors ----

  /** Pushes a vector: the value of `e` for four successive values of the lane variable. */
  vector(e: Expr): void {
    const { f } = this.frame,
      known = this.#vectors.get(e);
    if (known !== undefined) {
      f.get(known);
      return;
    }
    if (!this.isVector(e)) {
      this.#splat(e);
      return;
    }
    this.#vector(e);
    if ((this.#uses.get(e) ?? 0) > 1) {
      const local = f.local(V128);
      f.tee(local);
      this.#vectors.set(e, local);
    }
  }

  #splat(e: Expr): void {
    const { f } = this.frame;
    if (e.k === 'const') {
      const bits = laneOf(e.value, e.dtype);
      f.v128([bits, bits, bits, bits]);
      return;
    }
    if (e.dtype === 'bool') {
      f.i32(0);
      this.scalar(e);
      f.op('i32.sub');
    } else this.scalar(e);
    f.simd(e.dtype === 'float32' ? 'f32x4.splat' : 'i32x4.splat');
  }

  #vector(e: Expr): void {
    const { f, vars } = this.frame;
    switch (e.k) {
      case 'var':
        f.get(vars.get(e) ?? -1)
          .simd('i32x4.splat')
          .v128([0, 1, 2, 3].map((l) => l + this.shift))
          .simd('i32x4.add');
        return;
      case 'linear': {
        const still = e.terms.filter(([, t]) => !this.isVector(t));
        this.#linear(e.constant, still);
        f.simd('i32x4.splat');
        for (const [c, t] of e.terms) {
          if (!this.isVector(t)) continue;
          this.vector(t);
          if (c !== 1) f.v128([c, c, c, c]).simd('i32x4.mul');
          f.simd('i32x4.add');
        }
        return;
      }
      case 'load':
        this.#vectorLoad('load', e.buffer, e.index, e.dtype);
        return;
      case 'local':
        if (e.index) {
          this.#vectorLoad('local', e.local, e.index, e.dtype);
          return;
        }
        throw new VerifyError('emit', 'a scalar local where a vector is needed');
      case 'op':
        vectorOperation(this, e);
        return;
      default:
        throw new VerifyError('emit', `an expression of kind ${e.k} has no vector value`);
    }
  }

  /** Elements from one lane to the next; null if no constant says it. */
  stride(index: Expr): number | null {
    return this.lane === null ? null : strideOf(index, this.lane);
  }

  /** Pushes the address of the first lane's element; gives the constant offset for the memory instruction. */
  firstAddress(kind: 'load' | 'local', which: number, index: Expr): number {
    const { f, buffers, locals, vars } = this.frame,
      stride = this.stride(index) ?? 0;
    const bytes = stride * sizeOf((kind === 'load' ? buffers : locals)[which].dtype),
      known = this.#starts.get(`${kind}${which}:${index.id}`);
    if (known === undefined) return this.addressOf(kind, which, index) + bytes * this.shift;
    f.get(known, this.lane ? (vars.get(this.lane) ?? -1) : -1);
    if (bytes !== 1) f.i32(bytes).op('i32.mul');
    f.op('i32.add');
    return bytes * this.shift;
  }

  #vectorLoad(kind: 'load' | 'local', which: number, index: Expr, dtype: Scalar): void {
    const { f } = this.frame,
      stride = this.stride(index);
    if (stride === 1) {
      const offset = this.firstAddress(kind, which, index);
      if (dtype !== 'bool') {
        f.memory(isHalf(dtype) ? 'v128.load16x4_u' : 'v128.load', offset);
        return;
      }
      f.memory('v128.load32_zero', offset)
        .simd('i16x8.extend_low_i8x16_u', 'i32x4.extend_low_i16x8_u')
        .v128([0, 0, 0, 0])
        .simd('i32x4.ne');
      return;
    }
    const to = f.local(V128);
    f.v128([0, 0, 0, 0]).set(to);
    this.eachAddress(kind, which, index, (lane, offset) => {
      if (dtype === 'bool')
        f.memory('i32.load8_u', offset)
          .set(this.#spare(I32))
          .get(to)
          .get(this.#spare(I32))
          .lane('i32x4.replace_lane', lane)
          .set(to);
      else if (isHalf(dtype))
        f.get(to)
          .memoryLane('v128.load16_lane', 2 * lane, offset)
          .set(to);
      else f.get(to).memoryLane('v128.load32_lane', lane, offset).set(to);
    });
    f.get(to);
    if (dtype === 'bool') f.v128([0, 0, 0, 0]).simd('i32x4.ne');
  }

  readonly #spares = new Map<ValueType, number>();
  #spare(type: ValueType): number {
    const found = this.#spares.get(type) ?? this.frame.f.local(type);
    this.#spares.set(type, found);
    return found;
  }

  /** Calls `visit` for each lane, with the address of its element on the stack, less a constant offset. */
  eachAddress(kind: 'load' | 'local', which: number, index: Expr, visit: (lane: number, offset: number) => void): void {
    const { f, buffers, locals, addresses, places, scratch } = this.frame,
      stride = this.stride(index);
    const bytes = sizeOf((kind === 'load' ? buffers : locals)[which].dtype);
    if (stride !== null && stride >= 0) {
      const offset = this.firstAddress(kind, which, index),
        at = f.keep(I32);
      for (let l = 0; l < 4; l++) {
        f.get(at);
        visit(l, offset + l * stride * bytes);
      }
      return;
    }
    this.vector(index);
    if (bytes > 1) f.i32(Math.log2(bytes)).simd('i32x4.shl');
    f.get(kind === 'load' ? addresses[which] : scratch).simd('i32x4.splat', 'i32x4.add');
    const all = f.keep(V128);
    for (let l = 0; l < 4; l++) {
      f.get(all).lane('i32x4.extract_lane', l);
      visit(l, kind === 'local' ? places[which] : 0);
    }
  }

  /** Replaces the vector on the stack by the four values of a function. */
  apply({ argument, body }: ScalarFunction): void {
    const inner = new Values(this.frame).share([body]);
    inner.bind(argument, this.frame.f.keep(V128), true);
    inner.vector(body);
  }

  // ---- before a loop over the lane variable ----

  /**
   * Computes before a loop what its expressions would compute again in every iteration. `changing`: what the loop
   * itself stores to.
   */
  hoist(
    roots: readonly Expr[],
    places: readonly { kind: 'load' | 'local'; which: number; index: Expr }[],
    changing: (kind: 'load' | 'local', which: number) => boolean,
  ): void {
    const { f, buffers, locals } = this.frame,
      seen = new Set<Expr>(),
      memo = new Map<Expr, boolean>();
    this.share([...roots, ...places.map((p) => p.index)]);
    const fixed = (e: Expr): boolean => {
      const found = memo.get(e);
      if (found !== undefined) return found;
      const self = e.k === 'load' ? !changing('load', e.buffer) : e.k === 'local' ? !changing('local', e.local) : true;
      const answer = self && children(e).every(fixed);
      memo.set(e, answer);
      return answer;
    };
    const still = (e: Expr, asVector: boolean): void => {
      if (e.k === 'const' || !fixed(e)) return;
      if (e.k !== 'var' && e.k !== 'int' && !this.#scalars.has(e) && !(e.k === 'local' && e.index === null)) {
        this.scalar(e);
        this.#scalars.set(e, f.keep(typeOf(e.dtype)));
      }
      if (asVector && !this.#vectors.has(e)) {
        this.#splat(e);
        this.#vectors.set(e, f.keep(V128));
      }
    };
    const place = (kind: 'load' | 'local', which: number, index: Expr): boolean => {
      const stride = this.stride(index),
        key = `${kind}${which}:${index.id}`;
      if (stride === null || stride === 0 || this.#starts.has(key)) return stride !== null && stride > 0;
      const rest = index.k === 'linear' ? index.terms.filter(([, t]) => t !== this.lane) : [];
      if (!rest.every(([, t]) => fixed(t))) return false;
      f.get(kind === 'load' ? this.frame.addresses[which] : this.frame.scratch);
      this.#linear(index.k === 'linear' ? index.constant : 0, rest);
      const bytes = sizeOf((kind === 'load' ? buffers : locals)[which].dtype);
      if (bytes > 1) f.i32(Math.log2(bytes)).op('i32.shl');
      f.op('i32.add');
      if (kind === 'local') f.i32(this.frame.places[which]).op('i32.add');
      this.#starts.set(key, f.keep(I32));
      return true;
    };
    const visit = (e: Expr): void => {
      if (seen.has(e)) return;
      seen.add(e);
      if (!this.isVector(e)) {
        still(e, true);
        return;
      }
      if (e.k === 'load' && place('load', e.buffer, e.index)) return;
      if (e.k === 'local' && e.index && place('local', e.local, e.index)) return;
      for (const c of children(e))
        if (e.k === 'linear' && !this.isVector(c)) still(c, false);
        else visit(c);
    };
    roots.forEach(visit);
    for (const p of places) if (!place(p.kind, p.which, p.index)) visit(p.index);
  }
}
