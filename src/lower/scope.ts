// The expressions of one kernel. A value of the graph is read from a buffer if it is stored; otherwise it is the
// expression that computes it. The kernel's own results (members) are read as expressions too, not from memory.
import { kernelParts, type KernelParts, type PartsAttrs } from '../base/parts.ts';
import { boundOf, stridesOf, type Dim, type TensorType } from '../base/shape.ts';
import { VerifyError } from '../base/errors.ts';
import { dimValues, inPanels, type Graph, type Node, type ValueId } from '../graph/graph.ts';
import type { Limits } from '../graph/limits.ts';
import type { MatmulCall, Op, Reader } from '../graph/op.ts';
import type { OpTable } from '../graph/builder.ts';
import { Exprs, type Expr } from '../kernel/expr.ts';
import type { Buffer, Extent } from '../kernel/kernel.ts';
import { viewOf, type View } from './view.ts';

/**
 * Readers of each value. `nodes`: the nodes that read it, once per operand. `pinned`: values that outputs, updates or
 * dimensions read. `needed`: values that an output or an update depends on.
 */
export interface Uses {
  readonly nodes: readonly (readonly Node[])[];
  readonly pinned: ReadonlySet<ValueId>;
  readonly needed: ReadonlySet<ValueId>;
}

export interface Storage {
  readonly uses: Uses;
  readonly graph: Graph;
  readonly ops: OpTable;
  readonly limits: Limits;
  readonly producers: readonly (Node | undefined)[];
  readonly stored: ReadonlySet<ValueId>;
  /** The value whose buffer holds `v`: itself, or the value that it is a reshape of, or the float32 form of. */
  home(v: ValueId): ValueId;
  /** The value in whose memory `v` lies: its home, or the operand that the op of its home overwrites (Op.inPlaceOf). */
  memory(v: ValueId): ValueId;
}

export class Scope {
  readonly e = new Exprs();
  readonly values: ValueId[] = [];
  readonly ints: number[] = [];
  readonly #access: Buffer['access'][] = [];
  readonly #storage: Storage;
  readonly #members: ReadonlySet<ValueId>;
  readonly #memo = new Map<string, Expr>();
  readonly #calls = new Map<Node, MatmulCall>();
  /** States that lie in panels. */
  readonly #inPanels: ReadonlySet<ValueId>;
  /** In a matmul's epilogue: the value of the matmul, and the linear index of the element whose sum is finished. */
  #sum: { readonly value: ValueId; readonly linear: Expr } | null = null;

  constructor(storage: Storage, members: Iterable<ValueId>) {
    this.#storage = storage;
    this.#members = new Set(members);
    this.#inPanels = inPanels(storage.graph);
  }

  get buffers(): Buffer[] {
    return this.values.map((v, i) => ({ dtype: this.#storage.graph.types[v].dtype, access: this.#access[i] }));
  }

  buffer(value: ValueId, access: Buffer['access']): number {
    const home = access === 'read' ? this.#storage.home(value) : value;
    let index = this.values.findIndex((v, i) => v === home && (this.#access[i] === 'read') === (access === 'read'));
    if (index < 0) {
      index = this.values.push(home) - 1;
      this.#access.push(access);
    }
    return index;
  }

  /** Where the elements of an input lie in memory; null if they do not. */
  view(value: ValueId): View | null {
    const { graph, producers, stored } = this.#storage;
    return viewOf(value, graph.types, producers, stored);
  }

  beginEpilogue(value: ValueId, linear: Expr): void {
    this.#sum = { value, linear };
  }

  extent = (type: TensorType, axis: number): Expr => {
    const d = type.shape[axis];
    if (typeof d === 'number') return this.e.index(d);
    const at = this.e.load(
      this.buffer(dimValues(type)[0], 'read'),
      this.e.index(d.kind === 'bounded' ? 0 : d.segments),
      'int32',
    );
    return this.e.op('cast', [at], 'index');
  };

  parts = (attrs: PartsAttrs, dim: Dim, each: number): KernelParts | null =>
    kernelParts(attrs, dim, each, (offsets) => this.buffer(offsets, 'read'));

  size = (d: Dim): Extent => {
    if (typeof d === 'number') return d;
    return d.kind === 'bounded' ? this.all(d, 1) : { offsets: this.buffer(d.offsets, 'read') };
  };

  all = (d: Dim, times: number): Extent => {
    if (typeof d === 'number') return d * times;
    const [count, at] = d.kind === 'bounded' ? [d.count, 0] : [d.offsets, d.segments];
    return { count: this.buffer(count, 'read'), at, times };
  };

  offset = (d: Dim, z: Expr): Expr => {
    if (typeof d === 'number' || d.kind !== 'segmented')
      throw new VerifyError('lower', 'only segmented dimensions have offsets');
    return this.e.load(this.buffer(d.offsets, 'read'), z, 'int32');
  };

  /** What the lowering of an op gets: its inputs, types, attributes and sizes. */
  call(node: Node): MatmulCall {
    const found = this.#calls.get(node);
    if (found) return found;
    const types = this.#storage.graph.types,
      slots = new Map<string, Expr>();
    const int = (name: string, value: number): Expr => {
      const slot = slots.get(name) ?? this.e.int(this.ints.push(value) - 1);
      slots.set(name, slot);
      return slot;
    };
    const made: MatmulCall = {
      e: this.e,
      attrs: node.attrs,
      outTypes: node.outputs.map((v) => types[v]),
      extent: this.extent,
      parts: this.parts,
      size: this.size,
      all: this.all,
      offset: this.offset,
      int,
      inputs: node.inputs.map((v) => this.reader(v)),
    };
    this.#calls.set(node, made);
    return made;
  }

  reader(v: ValueId): Reader {
    return { type: this.#storage.graph.types[v], at: (index) => this.at(v, index), linear: (l) => this.linear(v, l) };
  }

  at(v: ValueId, index: readonly Expr[]): Expr {
    const { stored, graph, home } = this.#storage;
    const panels = this.#inPanels.has(v) ? this.#storage.limits.panels : null;
    if (panels) return this.#load(v, panels.index(this.e, graph.types[v], index));
    // A stored value, a reshape of one, and the matmul of an epilogue are read by linear index.
    if (home(v) !== v || this.#sum?.value === v || (stored.has(v) && !this.#members.has(v))) {
      const strides = stridesOf(graph.types[v].shape);
      return this.linear(
        v,
        this.e.linear(
          0,
          index.map((i, d) => [strides[d], i]),
        ),
      );
    }
    return this.#memoised(`${v}@${index.map((i) => i.id).join()}`, () => {
      const { node, op } = this.#maker(v);
      if (op.lower.kind !== 'map')
        throw new VerifyError('lower', `${node.op} is read inside a kernel but was not stored`);
      return op.lower.at(this.call(node), index, node.outputs.indexOf(v));
    });
  }

  linear(v: ValueId, l: Expr): Expr {
    const home = this.#storage.home(v);
    if (home !== v) {
      const stored = this.linear(home, l),
        { dtype } = this.#storage.graph.types[v];
      return stored.dtype === dtype ? stored : this.e.cast(stored, dtype);
    }
    if (this.#sum?.value === v) {
      if (l !== this.#sum.linear) throw new VerifyError('lower', 'an epilogue reads another element than its own');
      return this.e.sum(this.#storage.graph.types[v].dtype);
    }
    if (this.#inPanels.has(v)) return this.at(v, unravel(this.e, this.#storage.graph.types[v], l));
    if (this.#storage.stored.has(v) && !this.#members.has(v)) return this.#load(v, l);
    return this.#memoised(`${v}#${l.id}`, () => {
      const { node, op } = this.#maker(v);
      const direct = op.lower.kind === 'map' ? op.lower.linear?.(this.call(node), l, node.outputs.indexOf(v)) : null;
      return direct ?? this.at(v, unravel(this.e, this.#storage.graph.types[v], l));
    });
  }

  #load(v: ValueId, at: Expr): Expr {
    return this.e.load(this.buffer(v, 'read'), at, this.#storage.graph.types[v].dtype);
  }

  #maker(v: ValueId): { node: Node; op: Op } {
    const node = this.#storage.producers[v];
    const op = node && this.#storage.ops.get(node.op);
    if (!node || !op) throw new VerifyError('lower', `no node makes %${v}, and it is not stored`);
    return { node, op };
  }

  #memoised(key: string, make: () => Expr): Expr {
    const found = this.#memo.get(key);
    if (found) return found;
    const made = make();
    this.#memo.set(key, made);
    return made;
  }
}

/** The multi-index of a row-major linear index. */
export function unravel(e: Exprs, type: TensorType, linear: Expr): Expr[] {
  const strides = stridesOf(type.shape);
  return type.shape.map((d, i) => {
    const q = e.div(linear, strides[i]);
    return i === 0 ? q : e.mod(q, boundOf(d));
  });
}
