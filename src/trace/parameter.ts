// A Parameter: a named tensor that training changes. Modules own them; their values live in an executor.
import type { DType } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { Stream } from '../base/random.ts';

/** How a parameter starts. normal: standard deviation; uniform: +-bound; constant: value. */
export type Init =
  | { readonly kind: 'normal'; readonly std: number }
  | { readonly kind: 'uniform'; readonly bound: number }
  | { readonly kind: 'constant'; readonly value: number };

/** What a parameter is. Weights, embeddings, routers and heads (the map to a model's outputs) decay; biases and gains
 * do not. `running`: statistics that a module keeps itself, which no optimiser updates. */
export const ROLES = ['weight', 'bias', 'gain', 'embedding', 'router', 'head', 'running'] as const;
export type Role = (typeof ROLES)[number];

export interface ParameterOptions {
  readonly dtype?: DType;
  /** Default true; false: it only changes when a checkpoint is loaded, or by `Trace.updateParameter`. */
  readonly trained?: boolean;
  /** Default 'weight', which decays; 'running' where it is not trained. */
  readonly role?: Role;
}

export class Parameter {
  readonly shape: readonly number[];
  readonly init: Init;
  readonly dtype: DType;
  /** What it is, whatever its shape and its name: an optimiser's decay and groups go by it. */
  readonly role: Role;
  /** Trained; otherwise it only changes when a checkpoint is loaded. */
  readonly trained: boolean;
  /** Left as it is by training: all of it, or the parts along a dimension that are named so (experts of a bank). */
  frozen: boolean | readonly boolean[] = false;
  /** Which dimension that is. */
  frozenAxis = 0;
  constructor(shape: readonly number[], init: Init, options: ParameterOptions = {}) {
    if (!shape.every((d) => Number.isInteger(d) && d > 0)) throw new UserError(`a parameter's dimensions must be whole numbers of at least 1, got [${shape.map(String).join(', ')}]`, 'look at the sizes that its layer was given');
    this.shape = shape;
    this.init = init;
    this.dtype = options.dtype ?? 'float32';
    this.trained = options.trained ?? true;
    this.role = checkRole(options.role ?? (this.trained ? 'weight' : 'running'), this.trained);
  }

  get size(): number { return this.shape.reduce((n, d) => n * d, 1); }
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

/** Starting value of a parameter: a pure function of the seed, the parameter's name and the element's index. */
export const initialValue = (p: Parameter, name: string, seed: number): Float32Array => fillFrom(p, new Stream(seed, name), new Float32Array(p.size), 0);

const PART = 65536; // elements

/** The same part by part, in one array that is used again: a whole array for each parameter would stay in memory until it is collected. */
export function* initialParts(p: Parameter, name: string, seed: number): Generator<{ readonly at: number; readonly data: Float32Array }> {
  const stream = new Stream(seed, name), part = new Float32Array(Math.min(PART, p.size));
  for (let at = 0; at < p.size; at += PART) yield { at, data: fillFrom(p, stream, part.subarray(0, Math.min(PART, p.size - at)), at) };
}

function fillFrom({ init }: Parameter, stream: Stream, out: Float32Array, from: number): Float32Array {
  switch (init.kind) {
    case 'constant': return out.fill(init.value);
    case 'normal': return stream.normals(0, init.std, out, from);
    case 'uniform': for (let i = 0; i < out.length; i++) out[i] = init.bound * (2 * stream.uniform(0, from + i) - 1); return out;
  }
}
