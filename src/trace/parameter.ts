// A Parameter: a named tensor that training changes. Modules own them; their values live in an executor.
import { DTYPES, hostArray, isFloat, type DType, type TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { isHalf, toHalf } from '../base/half.ts';
import { checkOptions, shown, type KeysOf } from '../base/options.ts';
import { aFlag, aText } from '../base/kinds.ts';
import { Stream } from '../base/random.ts';
import type { Run } from '../base/runs.ts';
import { checkSize } from '../base/shape.ts';
import type { Role as StateRole } from '../graph/state.ts';

/**
 * Initial values of a parameter: `{ kind: 'normal', std: 0.02 }` (mean 0), `{ kind: 'uniform', bound: 0.1 }` (from
 * -bound to bound) or `{ kind: 'constant', value: 0 }`. Random ones follow from the session's seed and the parameter's
 * name.
 */
export type Init =
  | { readonly kind: 'normal'; readonly std: number }
  | { readonly kind: 'uniform'; readonly bound: number }
  | { readonly kind: 'constant'; readonly value: number };

/**
 * What a parameter is for. Weights, embeddings, routers and heads (the map to a model's outputs) have weight decay;
 * biases and gains do not. `running`: statistics that a module updates itself; no optimizer updates them.
 */
export const ROLES = [
  'weight',
  'bias',
  'gain',
  'embedding',
  'router',
  'head',
  'running',
] as const satisfies readonly StateRole[];
export type Role = (typeof ROLES)[number];

export interface ParameterOptions {
  readonly dtype?: DType;
  /** Default true. false: only loading a checkpoint, or `Trace.updateParameter`, changes it. */
  readonly trained?: boolean;
  /** Default 'weight', which has weight decay; 'running' for a parameter that is not trained. */
  readonly role?: Role;
}

const KEYS: KeysOf<ParameterOptions> = { dtype: aText, trained: aFlag, role: aText };

const SIZES = { normal: 'std', uniform: 'bound', constant: 'value' } as const;
const INIT_HINT =
  "new Parameter(shape, { kind: 'normal', std: 0.02 }), { kind: 'uniform', bound: 0.1 } or { kind: " +
  "'constant', value: 0 }";

/** Throws UserError for values that TypeScript would have refused, and for a number that is not finite. */
function checkInit(init: unknown): void {
  const { kind, ...rest } = (typeof init === 'object' && init !== null ? init : {}) as {
    readonly kind?: unknown;
    readonly [size: string]: unknown;
  };
  if (typeof kind !== 'string' || !Object.hasOwn(SIZES, kind)) {
    const what =
      init === undefined
        ? 'a parameter needs an init: its initial values'
        : `a parameter's init must be of the kind normal, uniform or constant, got ${shown(init)}`;
    throw new UserError(what, INIT_HINT);
  }
  const size = SIZES[kind as keyof typeof SIZES],
    other = Object.keys(rest).find((key) => key !== size),
    value = rest[size];
  if (other !== undefined)
    throw new UserError(`a parameter's init of the kind ${kind} has "${size}" and no "${other}"`, INIT_HINT);
  if (typeof value !== 'number' || !Number.isFinite(value) || (kind !== 'constant' && value < 0)) {
    throw new UserError(
      `a parameter's init: ${size} must be a ` +
        `${kind === 'constant' ? 'finite number' : 'number of at least 0'}, got ${shown(value)}`,
      INIT_HINT,
    );
  }
}

const boolOrList = (v: unknown): v is boolean | readonly boolean[] =>
  typeof v === 'boolean' || (Array.isArray(v) && v.every((f) => typeof f === 'boolean'));

/** Changes the dtype of a parameter; only for this file. */
let assign: (p: Parameter, dtype: DType) => void;
/** Parameters whose dtype a trace has read. */
const traced = new WeakSet<Parameter>();
export const markTraced = (p: Parameter): void => {
  traced.add(p);
};

/** Parameters with one part for each expert of a layer, along the first dimension. */
const ofExperts = new WeakSet<Parameter>();
/** Marks a parameter as a bank of experts: each of its parts belongs to one rank. */
export const markOfExperts = (p: Parameter): void => {
  ofExperts.add(p);
};
export const isOfExperts = (p: Parameter): boolean => ofExperts.has(p);

let freezes = 0;
/** How often `frozen` or `frozenAxis` of any parameter was set: while this number is the same, so are the values. */
export const freezesSoFar = (): number => freezes;

/**
 * A named tensor that training changes. `shape`, `init`, `dtype` (except by `nn.setDtype`), `role` and `trained` are
 * fixed. `frozen` and `frozenAxis` may be set at any time, and take effect at the next step of every session of the
 * model.
 */
export class Parameter {
  static {
    assign = (p, dtype) => {
      p.#dtype = dtype;
    };
  }
  readonly shape: readonly number[];
  readonly init: Init;
  #dtype: DType;
  /** What the parameter is for; the optimizer's weight decay and groups depend on it. */
  readonly role: Role;
  /** Whether the optimizer changes it; if not, only loading a checkpoint does. */
  readonly trained: boolean;
  #frozen: boolean | readonly boolean[] = false;
  #frozenAxis = 0;

  /**
   * `init`: its initial values, such as `{ kind: 'normal', std: 0.02 }`. Throws UserError for dimensions below 1, and
   * for an unknown init or option.
   */
  constructor(shape: readonly number[], init: Init, options: ParameterOptions = {}) {
    checkOptions('Parameter', options, KEYS);
    if (!Array.isArray(shape))
      throw new UserError(`a parameter's shape must be a list of whole numbers, got ${String(shape)}`, INIT_HINT);
    checkInit(init);
    if (!shape.every((d) => Number.isInteger(d) && d > 0))
      throw new UserError(
        `a parameter's dimensions must be whole numbers of at least 1, got [${shape.map(String).join(', ')}]`,
        'check the sizes that its layer was given',
      );
    checkSize('Parameter', { dtype: 'float32', shape: shape as readonly number[] });
    this.shape = Object.freeze([...(shape as readonly number[])]);
    this.init = Object.freeze({ ...init });
    this.trained = options.trained ?? true;
    this.#dtype = checkDtype(options.dtype ?? 'float32', this.trained);
    this.role = checkRole(options.role ?? (this.trained ? 'weight' : 'running'), this.trained);
    // Programs depend on these properties: writing to one throws TypeError.
    for (const key of Object.keys(this)) Object.defineProperty(this, key, { writable: false });
  }

  /**
   * Whether training leaves it unchanged: all of it, or the parts along `frozenAxis` whose entry is true (experts of a
   * bank). A list is copied, and the copy cannot be changed. The optimizer's moments of frozen parts keep their values
   * too.
   */
  get frozen(): boolean | readonly boolean[] {
    return this.#frozen;
  }
  set frozen(frozen: boolean | readonly boolean[]) {
    if (!boolOrList(frozen))
      throw new UserError(`Parameter.frozen must be true, false, or a list of them, got ${shown(frozen)}`);
    this.#frozen = typeof frozen === 'boolean' ? frozen : Object.freeze([...frozen]);
    freezes++;
  }

  /**
   * The dimension along which a list in `frozen` names parts; default 0. Moments know their age along one dimension
   * only: after parts along another dimension were frozen, bias correction uses the age of the youngest moment for all
   * of them.
   */
  get frozenAxis(): number {
    return this.#frozenAxis;
  }
  set frozenAxis(axis: number) {
    if (!Number.isInteger(axis) || axis < 0 || axis >= this.shape.length)
      throw new UserError(`Parameter.frozenAxis must be a dimension of [${this.shape.join(', ')}], got ${axis}`);
    this.#frozenAxis = axis;
    freezes++;
  }

  /**
   * The dtype of its value and of the optimizer's moments; default float32. `nn.setDtype` changes the dtype of a model.
   */
  get dtype(): DType {
    return this.#dtype;
  }

  get size(): number {
    return this.shape.reduce((n, d) => n * d, 1);
  }
}

function checkDtype(dtype: DType, trained: boolean): DType {
  if (DTYPES.includes(dtype) && !isHalf(dtype) && (isFloat(dtype) || !trained)) return dtype;
  throw new UserError(
    `a parameter${trained ? ' that is trained' : ''} cannot be ${String(dtype)}`,
    'float32 or float64; int32, uint32 and bool with { trained: false }',
  );
}

function checkRole(role: Role, trained: boolean): Role {
  if (!ROLES.includes(role)) {
    throw new UserError(`a parameter has no role ${String(role)}`, `one of ${ROLES.join(', ')}`);
  }
  if (role === 'running' && trained) {
    const hint = '{ trained: false }, or another role';
    throw new UserError("a parameter that is trained cannot have the role 'running'", hint);
  }
  return role;
}

/**
 * Makes a float parameter `dtype`. Throws UserError once a session has traced it: a state of the old dtype then exists.
 */
export function assignDtype(p: Parameter, dtype: 'float32' | 'float64'): void {
  if (!isFloat(p.dtype) || p.dtype === dtype) return;
  if (traced.has(p))
    throw new UserError(
      'the dtype of a parameter cannot be changed after a session has used it',
      'call nn.setDtype before compile(model, ...)',
    );
  assign(p, dtype);
}

/** The initial value of an element: it depends only on the seed, the parameter's name and the element's index. */
export const initialValue = (p: Parameter, name: string, seed: number): TypedArray =>
  fillFrom(p, new Stream(seed, name), hostArray(p.dtype, p.size), 0);

const PART = 65536; // elements

/**
 * The initial values in parts, in arrays that are used again: a new array for each part would stay in memory until
 * garbage is collected. stored: the dtype of the parameter in memory, if it is another. runs: which values lie in this
 * memory; all by default.
 */
export function* initialParts(
  p: Parameter,
  name: string,
  seed: number,
  stored: DType = p.dtype,
  runs: readonly Run[] = [{ at: 0, from: 0, count: p.size }],
): Generator<{ readonly at: number; readonly data: TypedArray }> {
  const stream = new Stream(seed, name),
    most = Math.min(PART, p.size),
    // Normal numbers come in pairs: a run that begins with the second of a pair makes the first one, too.
    part = hostArray(p.dtype, most + 1),
    short = isHalf(stored) ? new Uint16Array(most) : null;
  for (const { at, from, count } of runs)
    for (let i = 0; i < count; i += PART) {
      const n = Math.min(PART, count - i),
        odd = (from + i) % 2,
        data = fillFrom(p, stream, part.subarray(0, n + odd), from + i - odd).subarray(odd);
      yield { at: at + i, data: short && isHalf(stored) ? toHalf(stored, data, short.subarray(0, n)) : data };
    }
}

function fillFrom({ init }: Parameter, stream: Stream, out: TypedArray, from: number): TypedArray {
  switch (init.kind) {
    case 'constant':
      return out.fill(init.value);
    case 'normal':
      return stream.normals(0, init.std, out, from);
    case 'uniform':
      for (let i = 0; i < out.length; i++) out[i] = init.bound * (2 * stream.uniform(0, from + i) - 1);
      return out;
  }
}
