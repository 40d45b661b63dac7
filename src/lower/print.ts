// What lowering has decided, as text: `dynamoe inspect --stage storage` and `--stage groups`.
import { showType } from '../base/shape.ts';
import type { ValueId } from '../graph/graph.ts';
import type { Group } from './group.ts';
import type { Lowered } from './lowered.ts';

/** One value a line: where it lies in memory, or that it is not stored. */
export function printStorage({ graph, storage: { producers, stored, home, memory, uses } }: Lowered): string {
  const inputs = new Map(graph.inputs.map((i) => [i.value, i.kind]));
  const place = (v: ValueId): string => {
    const kind = inputs.get(v);
    if (kind !== undefined) return kind;
    if (!uses.needed.has(v)) return 'unused';
    if (!stored.has(v)) return `computed by its ${uses.nodes[v].length === 1 ? 'reader' : 'readers'}`;
    if (home(v) !== v) return `another view of %${home(v)}`;
    return memory(v) === v ? 'stored' : `stored in the memory of %${memory(v)}`;
  };
  return graph.types
    .map((type, v) => `%${v}: ${showType(type)}${producers[v] ? ` = ${producers[v].op}` : ''}   # ${place(v)}`)
    .join('\n');
}

/** One group for each kernel, in the order in which kernels run. */
export function printGroups({ graph, groups, storage: { producers } }: Lowered): string {
  const typed = (v: ValueId): string => `%${v}: ${showType(graph.types[v])} = ${producers[v]?.op ?? 'input'}`;
  const list = (vs: Iterable<ValueId>): string => [...vs].map((v) => `%${v}`).join(', ') || 'nothing';
  const number = new Map(groups.map((g, i) => [g, i]));
  const show = (g: Group, i: number): string => {
    const after = [...g.after].map((b) => number.get(b) ?? -1).sort((a, b) => a - b);
    return [
      `group ${i}: ${g.kind}${g.node ? ` ${g.node.op}` : ''}${g.unless === null ? '' : ` unless %${g.unless}`}`,
      ...g.members.map((v) => `  ${typed(v)}${g.roots.includes(v) ? '' : '   # not stored'}`),
      `  reads ${list(g.reads)}`,
      ...(g.readAtOtherIndices.size > 0 ? [`  at other indices ${list(g.readAtOtherIndices)}`] : []),
      ...(after.length > 0 ? [`  also after groups ${after.join(', ')}`] : []),
    ].join('\n');
  };
  return groups.map(show).join('\n\n');
}
