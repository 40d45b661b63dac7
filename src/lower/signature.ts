// What a group's kernel follows from, as text over numbers of its own: groups with equal texts have equal kernels, but for which
// values stand behind the buffers. Layers repeat, and programs of one model share most of what they do, so that most kernels need
// not be built again.
import type { Dim } from '../base/shape.ts';
import type { OpTable } from '../graph/builder.ts';
import { attrsText, type ValueId } from '../graph/graph.ts';
import type { Group } from './group.ts';
import type { Storage } from './scope.ts';

export interface Signature {
  readonly text: string;
  /** The value with each number, and back. */
  readonly values: readonly ValueId[];
  readonly numbers: ReadonlyMap<ValueId, number>;
}

export function signatureOf({ graph, producers, stored, home }: Storage, ops: OpTable, group: Group): Signature {
  const numbers = new Map<ValueId, number>(), values: ValueId[] = [], lines: string[] = [];
  const members = new Set(group.members);
  const number = (v: ValueId): number => {
    const found = numbers.get(v);
    if (found !== undefined) return found;
    const made = values.push(v) - 1;
    numbers.set(v, made);
    return made;
  };
  const dim = (d: Dim): string => (typeof d === 'number' ? `${d}` : d.kind === 'bounded' ? `<${d.bound}:${visit(d.count)}` : `<${d.bound}/${d.segments}:${visit(d.offsets)}`);
  const type = (v: ValueId): string => { const t = graph.types[v]; return `${t.dtype}[${t.shape.map(dim).join()}]`; };

  /** Describes a value as the kernel's expressions see it; gives its number. */
  function visit(v: ValueId): number {
    if (numbers.has(v)) return number(v);
    const n = number(v), node = producers[v];
    if (home(v) !== v) lines.push(`${n} ${type(v)} in ${visit(home(v))}`);
    else if (!node || (stored.has(v) && !members.has(v))) lines.push(`${n} ${type(v)}`);
    else {
      const unread = ops.get(node.op)?.unread ?? [];
      const inputs = node.inputs.map((x, i) => (unread.includes(i) ? type(x) : visit(x)));
      const outputs = node.outputs.map((o) => (o === v ? '.' : `${type(o)}=${number(o)}`));
      lines.push(`${n} ${type(v)} ${node.op}(${inputs.join()})${attrsText(node.attrs)}>${outputs.join()}`);
    }
    return n;
  }

  const roots = [...(group.node?.outputs ?? []), ...group.roots].map(visit);
  return { text: `${group.kind} ${roots.join()} of ${group.members.map(visit).join()}\n${lines.join('\n')}`, values, numbers };
}
