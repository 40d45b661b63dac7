// The Graph: tensor operations in single assignment form. Values are numbered; a node reads values and makes values;
// nodes stand in an order in which every value is made before it is read. Plain data: stages take one and give another.
import type { TensorType } from '../base/shape.ts';
import type { TypedArray } from '../base/dtype.ts';

export type ValueId = number;

/** What an op needs to know beside its inputs. Plain JSON. */
export type Attrs = Readonly<Record<string, AttrValue | undefined>>;
export type AttrValue = number | string | boolean | readonly number[];

/** Attributes as text; JSON would make NaN, infinities and -0 look alike. */
export function attrsText(attrs: Attrs): string {
  const show = (v: unknown): string => (typeof v === 'number' ? (Object.is(v, -0) ? '-0' : `${v}`) : JSON.stringify(v));
  return `{${Object.keys(attrs)
    .sort()
    .map((k) => `${k}=${show(attrs[k])}`)
    .join()}}`;
}

/**
 * Nodes of one part are computed again, together, where gradients need their results, which need not be kept. `time`: 0
 * for those written first; for copies, which time of taking gradients made them. `within`: the part that this one is a
 * part of.
 */
export interface Recompute {
  readonly part: number;
  readonly time: number;
  readonly within?: Recompute;
}

export interface Node {
  readonly op: string;
  readonly inputs: readonly ValueId[];
  readonly outputs: readonly ValueId[];
  readonly attrs: Attrs;
  /** Module path and pass, e.g. 'blocks.0.moe' or 'blocks.0.moe:grad': for people. */
  readonly scope: string;
  readonly recompute?: Recompute;
  /** Nodes with one number are computed after all that stand before the first of them, though they may not need it. */
  readonly notBefore?: number;
}

/**
 * input: given at each run. state: lives in the executor under its name, shared by all programs. constant: data of the
 * graph.
 */
export interface GraphInput {
  readonly value: ValueId;
  readonly name: string;
  readonly kind: 'input' | 'state' | 'constant';
  readonly data?: TypedArray;
}

/**
 * After the run, state `state` (an input value of kind 'state') holds `value`; only if the int32 scalar `unless` is 0.
 */
export interface Update {
  readonly state: ValueId;
  readonly value: ValueId;
  readonly unless: ValueId | null;
}

export interface Graph {
  readonly types: readonly TensorType[]; // by ValueId
  readonly inputs: readonly GraphInput[];
  readonly nodes: readonly Node[];
  readonly outputs: readonly { readonly name: string; readonly value: ValueId }[];
  readonly updates: readonly Update[];
}

/** The node that makes each value; undefined for inputs. */
export function producers(graph: Graph): (Node | undefined)[] {
  const made = new Array<Node | undefined>(graph.types.length).fill(undefined);
  for (const node of graph.nodes) for (const out of node.outputs) made[out] = node;
  return made;
}

/** Values that dimensions of `type` refer to: they are inputs of every node that makes or reads it. */
export function dimValues(type: TensorType): ValueId[] {
  return type.shape.flatMap((d) => (typeof d === 'number' ? [] : [d.kind === 'bounded' ? d.count : d.offsets]));
}
