// A Graph as text, one node a line: `dynamoe inspect --stage graph`.
import { showDivided } from '../base/shape.ts';
import type { Graph } from './graph.ts';

export function printGraph(graph: Graph): string {
  const typed = (v: number): string => `%${v}: ${showDivided(graph.types[v])}`;
  const lines = graph.inputs.map(
    (i) => `${typed(i.value)} = ${i.kind} "${i.name}"${i.kind === 'state' ? `   # ${i.role}, in ${i.layout}` : ''}`,
  );
  for (const n of graph.nodes) {
    const attrs = Object.entries(n.attrs).map(([k, v]) => `${k}=${JSON.stringify(v)}`);
    const args = [...n.inputs.map((v) => `%${v}`), ...attrs].join(', ');
    lines.push(`${n.outputs.map(typed).join(', ')} = ${n.op}(${args})${n.scope ? `   # ${n.scope}` : ''}`);
  }
  for (const o of graph.outputs) lines.push(`output "${o.name}" = %${o.value}`);
  for (const u of graph.updates)
    lines.push(`update %${u.state} <- %${u.value}${u.unless === null ? '' : ` unless %${u.unless}`}`);
  return lines.join('\n');
}
