// The signature of a group: everything that its kernel depends on, as text, with values numbered in the order in which
// they are met. Groups with equal signatures have equal kernels; only the values behind the buffers differ. Layers
// repeat, and the programs of one model have most kernels in common, so most kernels need not be built again. The
// number of rows of a value (its first dimension, or the bound of it) is not in the text: most kernels are built
// without reading it, or read it of few values only (`recordSizeReads`), so that a change of capacity builds no kernel.
import { boundOf, type Dim, type TensorType } from '../base/shape.ts';
import type { OpTable } from '../graph/builder.ts';
import { attrsText, inPanels, type ValueId } from '../graph/graph.ts';
import type { Group } from './group.ts';
import type { Storage } from './scope.ts';

export interface Signature {
  readonly text: string;
  /** `values[n]` has number n; `numbers` is the inverse. */
  readonly values: readonly ValueId[];
  readonly numbers: ReadonlyMap<ValueId, number>;
}

export function signatureOf({ graph, producers, stored, home }: Storage, ops: OpTable, group: Group): Signature {
  const numbers = new Map<ValueId, number>(),
    values: ValueId[] = [],
    lines: string[] = [];
  const members = new Set(group.members),
    panels = inPanels(graph),
    described = new Set<ValueId>();
  const number = (v: ValueId): number => {
    const found = numbers.get(v);
    if (found !== undefined) return found;
    const made = values.push(v) - 1;
    numbers.set(v, made);
    return made;
  };
  const dim = (d: Dim, i: number): string => {
    if (typeof d === 'number') return i === 0 ? '?' : `${d}`;
    return d.kind === 'bounded' ? `<${d.usual}:${visit(d.count)}` : `<${d.usual}/${d.segments}:${visit(d.offsets)}`;
  };
  const type = (v: ValueId): string => {
    const t = graph.types[v];
    return `${t.dtype}[${t.shape.map(dim).join()}]`;
  };

  /** Adds a line that describes a value as the kernel's expressions see it. Gives the number of the value. */
  function visit(v: ValueId): number {
    const n = number(v),
      node = producers[v];
    if (described.has(v)) return n;
    described.add(v);
    if (home(v) !== v) lines.push(`${n} ${type(v)} in ${visit(home(v))}`);
    else if (!node || (stored.has(v) && !members.has(v)))
      lines.push(`${n} ${type(v)}${panels.has(v) ? ' in panels' : ''}`);
    else {
      const unread = ops.get(node.op)?.unread ?? [];
      const inputs = node.inputs.map((x, i) => (unread.includes(i) ? `${type(x)}=${number(x)}` : visit(x)));
      const outputs = node.outputs.map((o) => (o === v ? '.' : `${type(o)}=${number(o)}`));
      lines.push(`${n} ${type(v)} ${node.op}(${inputs.join()})${attrsText(node.attrs)}>${outputs.join()}`);
    }
    return n;
  }

  const roots = [...(group.node?.outputs ?? []), ...group.roots].map(visit);
  return {
    text: `${group.kind} ${roots.join()} of ${group.members.map(visit).join()}\n${lines.join('\n')}`,
    values,
    numbers,
  };
}

/** The number of rows of a value (or its bound), as text. */
export const rowsOf = ({ shape: [lead] }: TensorType): string => (lead === undefined ? '' : `${boundOf(lead)}`);

/** Types that record in `looked` the values whose number of rows is read. */
export function recordSizeReads(types: readonly TensorType[], looked: Set<ValueId>): readonly TensorType[] {
  const made = new Map<ValueId, TensorType>();
  const watch = ({ dtype, shape: [lead, ...rest] }: TensorType, v: ValueId): TensorType => {
    const shape: Dim[] = [0, ...rest],
      look = <T>(seen: T): T => {
        looked.add(v);
        return seen;
      };
    if (typeof lead !== 'number')
      shape[0] = {
        ...lead,
        get bound() {
          return look(lead.bound);
        },
      };
    else Object.defineProperty(shape, 0, { get: () => look(lead), enumerable: true });
    return { dtype, shape };
  };
  return new Proxy(types, {
    get(target, key) {
      const v = typeof key === 'string' ? Number(key) : NaN,
        type = target[v] as TensorType | undefined;
      if (!type) return Reflect.get(target, key) as unknown;
      const found = made.get(v) ?? (type.shape.length === 0 ? type : watch(type, v));
      made.set(v, found);
      return found;
    },
  });
}
