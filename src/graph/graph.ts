// The Graph: tensor operations in single assignment form. Values are numbered. A node reads values and makes values;
// nodes are in an order in which every value is made before it is read. Plain data: each stage of the compiler takes a
// graph and gives a new one.
import type { TensorType } from '../base/shape.ts';
import type { TypedArray } from '../base/dtype.ts';
import type { StateSpec } from './state.ts';

export type ValueId = number;

/** The settings of an op, beside its inputs. Plain JSON. */
export type Attrs = Readonly<Record<string, AttrValue | undefined>>;
export type AttrValue = number | string | boolean | readonly number[];

/** Attributes as text. JSON is not used: it writes NaN and infinities as null, and -0 as 0. */
export function attrsText(attrs: Attrs): string {
  const show = (v: unknown): string => (typeof v === 'number' ? (Object.is(v, -0) ? '-0' : `${v}`) : JSON.stringify(v));
  return `{${Object.keys(attrs)
    .sort()
    .map((k) => `${k}=${show(attrs[k])}`)
    .join()}}`;
}

/**
 * Marks the nodes of one part of the model whose results are not kept for gradients: the part is recomputed as a whole
 * where gradients need its results. `time`: 0 for the original nodes; for copies, the number of the differentiation
 * that made them. `within`: the part that contains this one.
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
  /** Module path and pass, e.g. 'blocks.0.moe' or 'blocks.0.moe:grad', for messages and profiles. */
  readonly scope: string;
  readonly recompute?: Recompute;
  /**
   * Nodes with the same number run after everything that stands before the first of them, even if they do not depend on
   * it.
   */
  readonly notBefore?: number;
}

/** input: given at each run. constant: data of the graph. */
export interface DataInput {
  readonly value: ValueId;
  readonly name: string;
  readonly kind: 'input' | 'constant';
  readonly data?: TypedArray;
}

/** Kept by the executor under its name and shared by all programs. With the type of its value: a StateSpec. */
export interface StateInput extends Pick<StateSpec, 'name' | 'role' | 'layout'> {
  readonly value: ValueId;
  readonly kind: 'state';
  readonly data?: undefined;
}

export type GraphInput = DataInput | StateInput;

/**
 * After the run, the state `state` (an input of kind 'state') holds `value`. If the int32 scalar `unless` is not 0, the
 * update is skipped.
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

/** The states that lie in panels. */
export const inPanels = ({ inputs }: Graph): ReadonlySet<ValueId> =>
  new Set(inputs.flatMap((i) => (i.kind === 'state' && i.layout === 'panels' ? [i.value] : [])));

/** The values that count rows in `type`. They are inputs of every node that makes or reads a value of this type. */
export function dimValues(type: TensorType): ValueId[] {
  return type.shape.flatMap((d) => (typeof d === 'number' ? [] : [d.kind === 'bounded' ? d.count : d.offsets]));
}
