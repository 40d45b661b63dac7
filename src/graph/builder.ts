// Builds a Graph: numbers values, applies the shape rules of ops, and notes the module in which each node was made.
import { callSite, ShapeError } from '../base/errors.ts';
import { checkSize, showType, type TensorType } from '../base/shape.ts';
import type { TypedArray } from '../base/dtype.ts';
import type { Attrs, DataInput, Graph, GraphInput, Node, Update } from './graph.ts';
import type { Op } from './op.ts';
import { roleOf, type Role } from './state.ts';
import { Tensor, type Builder } from './tensor.ts';

export type OpTable = ReadonlyMap<string, Op>;

export class GraphBuilder implements Builder {
  readonly ops: OpTable;
  readonly types: TensorType[] = [];
  readonly nodes: Node[] = [];
  readonly inputs: GraphInput[] = [];
  readonly outputs: { name: string; value: number }[] = [];
  readonly updates: Update[] = [];
  /** Module path of the nodes that are made from here on. */
  scope = '';
  /** The recomputed part to which the nodes made from here on belong, if any. */
  recompute: Node['recompute'];
  /** Node.notBefore of the nodes that are made from here on. */
  notBefore: number | undefined;
  #parts = 0;

  constructor(ops: OpTable) {
    this.ops = ops;
  }

  /** A builder that continues a graph. The graph itself does not change. */
  static resume(graph: Graph, ops: OpTable): GraphBuilder {
    const b = new GraphBuilder(ops);
    // One push for each type: `push(...types)` would overflow the stack for a deep model.
    for (const type of graph.types) b.types.push(type);
    for (const node of graph.nodes) b.nodes.push(node);
    for (const input of graph.inputs) b.inputs.push(input);
    for (const output of graph.outputs) b.outputs.push(output);
    for (const update of graph.updates) b.updates.push(update);
    for (const { recompute } of graph.nodes) b.#parts = Math.max(b.#parts, (recompute?.part ?? -1) + 1);
    return b;
  }

  emit(op: string, inputs: readonly Tensor[], given: Attrs = {}): Tensor[] {
    const record = this.ops.get(op);
    if (!record) throw new Error(`no op named ${op}`);
    for (const t of inputs) this.#own(op, t);
    const attrs = ownAttrs(given);
    let types: TensorType[];
    try {
      types = record.infer(
        inputs.map((t) => t.type),
        attrs,
        inputs.map((t) => t.id),
      );
    } catch (error) {
      if (!(error instanceof ShapeError)) throw error;
      const where = [
        `${op}(${inputs.map((t) => showType(t.type)).join(', ')})`,
        this.scope && `in ${this.scope}`,
        callSite(),
      ]
        .filter(Boolean)
        .join(', ');
      throw new ShapeError(`${error.message}\n  ${where}`, undefined, error);
    }
    // A rule may give the type of an input, whose axes are not those of the result.
    const outputs = types.map(({ dtype, shape }) => this.#value({ dtype, shape }));
    this.nodes.push({
      op,
      inputs: inputs.map((t) => t.id),
      outputs: outputs.map((t) => t.id),
      attrs,
      scope: this.scope,
      ...(this.recompute && { recompute: this.recompute }),
      ...(this.notBefore !== undefined && { notBefore: this.notBefore }),
    });
    return outputs;
  }

  /**
   * The values that `make` computes are not kept for gradients, but recomputed. The dimensions of its results are
   * computed before and kept; where gradients are differentiated again, those of all its values are kept, since a copy
   * has dimensions of its own. Recomputed parts may contain others.
   */
  recomputed<T>(make: () => T, time = 0): T {
    const outer = this.recompute;
    this.recompute = { part: this.#parts++, time, ...(outer && { within: outer }) };
    try {
      return make();
    } finally {
      this.recompute = outer;
    }
  }

  #value(type: TensorType): Tensor {
    this.types.push(type);
    return new Tensor(this, this.types.length - 1, type);
  }

  input(kind: DataInput['kind'], name: string, type: TensorType, data?: TypedArray): Tensor {
    const made = this.#given(kind, name, type);
    this.inputs.push({ value: made.id, name, kind, ...(data && { data }) });
    return made;
  }

  /** A state that this graph does not read yet. In a new graph every state lies in rows. */
  newState(name: string, type: TensorType, role: Role = roleOf(name)): Tensor {
    const made = this.#given('state', name, type);
    this.inputs.push({ value: made.id, name, kind: 'state', role, layout: 'rows' });
    return made;
  }

  #given(kind: GraphInput['kind'], name: string, type: TensorType): Tensor {
    if (this.inputs.some((i) => i.kind === kind && i.name === name))
      throw new Error(`two ${kind} values are named ${name}`);
    // The caller may pass a host tensor, with data, and change its shape later.
    const { dtype, shape, axes } = type;
    return this.#value(checkSize(`${kind} ${name}`, { dtype, shape: [...shape], ...(axes && { axes }) }));
  }

  /** The same id means another tensor in another graph. */
  #own(what: string, tensor: Tensor): void {
    if (!((tensor as unknown) instanceof Tensor))
      throw new ShapeError(
        `${what}: takes tensors of a model that is traced, got ${typeof tensor}`,
        "ops are for a model's forward(x)",
      );
    if (tensor.builder !== this)
      throw new ShapeError(`${what}: a tensor belongs to another trace`, 'do not keep tensors between traces');
  }

  output(name: string, tensor: Tensor): void {
    this.#own(name, tensor);
    this.outputs.push({ name, value: tensor.id });
  }

  update(state: Tensor, value: Tensor, unless: Tensor | null = null): void {
    for (const t of [state, value, ...(unless ? [unless] : [])]) this.#own('update', t);
    this.updates.push({ state: state.id, value: value.id, unless: unless?.id ?? null });
  }

  tensor(id: number): Tensor {
    return new Tensor(this, id, this.types[id]);
  }

  build(): Graph {
    return { types: this.types, inputs: this.inputs, nodes: this.nodes, outputs: this.outputs, updates: this.updates };
  }
}

/** Copies lists: the caller may change them later. */
function ownAttrs(attrs: Attrs): Attrs {
  let own: Record<string, Attrs[string]> | undefined;
  for (const key in attrs) {
    const value = attrs[key];
    if (Array.isArray(value)) (own ??= { ...attrs })[key] = [...(value as readonly number[])];
  }
  return own ?? attrs;
}
