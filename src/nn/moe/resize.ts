// Applies another capacity of an MoE layer to a graph that is traced and optimised already. In: the layer's settings
// before and after; out: what to change in the graph, or null if the model must be traced again.
import { boundOf } from '../../base/shape.ts';
import type { Edits } from '../../graph/retype.ts';
import { producers, type Attrs, type Graph, type Node } from '../../graph/graph.ts';
import type { Settings } from '../../trace/knobs.ts';
import { factorsOf, roomFor, type Capacity } from './capacity.ts';
import { alike, byRows } from './knobs.ts';
import { activeOf, readSlots } from './slots.ts';

/** Only for layers whose dispatch is 'ragged' or 'padded', before and after. */
export function resizeMoE(graph: Graph, path: string, from: Settings, to: Settings): Edits | null {
  const others = Object.keys(to).filter((knob) => knob !== 'capacity'),
    capacity = to['capacity'] as Capacity;
  // With chunks, the number of rows decides how many chunks the graph has.
  if (
    !alike(from, to, ...others) ||
    from['capacity'] === 'dropless' ||
    capacity === 'dropless' ||
    !byRows(to) ||
    to['chunks'] !== 1
  )
    return null;
  const active = activeOf(readSlots(to['slots']).families),
    made = producers(graph),
    // What admits the tokens of a mask (masked.ts).
    masks = new Set(graph.nodes.flatMap((n) => (n.op === 'spreadRows' ? [made[n.inputs[1]]] : []))),
    attrs = new Map<Node, Attrs>(),
    data = new Map<number, Int32Array<ArrayBuffer> | Float64Array<ArrayBuffer>>();
  /** By outputs of `admit`: planned rows of all experts together, and of each. */
  const rooms = new Map<number, { readonly rows: number; readonly bounds: readonly number[] }>();
  for (const node of graph.nodes) {
    const room = node.inputs.map((v) => rooms.get(v)).find((found) => found !== undefined);
    // Experts that are modules have tensors of their own, whose sizes must change, too.
    if (room && node.op === 'segmentCount')
      attrs.set(node, { ...node.attrs, bound: room.bounds[Number(node.attrs['segment'])] });
    else if (room && node.op === 'splitSegments') attrs.set(node, { bounds: room.bounds });
    else if (room && node.op === 'joinSegments') attrs.set(node, { ...node.attrs, rows: room.rows });
    if ((node.op !== 'admit' && node.op !== 'admitAll') || node.scope !== path || masks.has(node)) continue;
    const [sorted, , limits] = node.inputs,
      sorter = made[sorted],
      choices = sorter && ['permute', 'permuteUnless'].includes(sorter.op) ? sorter.inputs[0] : undefined,
      // Where the number of tokens varies, limits are computed from factors.
      computed = made[limits]?.op === 'expertCapacity' ? made[limits].inputs[0] : null,
      given = computed ?? limits;
    if (choices === undefined || !graph.inputs.some((i) => i.value === given && i.kind === 'constant')) return null;
    const [tokens, k] = graph.types[choices].shape.map(boundOf),
      experts = boundOf(graph.types[given].shape[0]);
    // If experts choose tokens, k is the number of experts, and topK says how many experts a token gets on average.
    const share = k === to['topK'] ? 1 : Number(to['topK']) / experts;
    const factors = typeof capacity === 'number' ? capacity * share : capacity.map((f) => f * share);
    const { caps, bound } = roomFor({
      tokens,
      k,
      experts,
      capacity: factors,
      padded: node.attrs['padded'] === true,
      spill: node.attrs['spill'] === true,
      active,
    });
    if (!caps) return null;
    attrs.set(node, { ...node.attrs, rows: bound });
    data.set(given, computed !== null ? Float64Array.from(factorsOf(factors, experts, active)) : Int32Array.from(caps));
    // With spill, an expert may get a row of every token.
    const own = { rows: bound, bounds: node.attrs['spill'] === true ? caps.map(() => tokens) : caps };
    for (const v of node.outputs) rooms.set(v, own);
  }
  return attrs.size > 0 ? { attrs, data } : null;
}
