// Checks that ranks cannot disagree: each value is uniform (the same bits on every rank) or varies. Outputs, new values
// of states that every rank has, and what decides whether a step runs must be uniform. Uniform is what follows from
// uniform values alone, and what ranks have gathered or joined.
import { VerifyError } from '../../base/errors.ts';
import type { OpTable } from '../../graph/builder.ts';
import { dimValues, type Graph, type Node, type ValueId } from '../../graph/graph.ts';
import { RANK } from './forms.ts';

/** Whether all ranks get the same from a node. */
const makesUniform = ({ op, attrs }: Node): boolean =>
  op === 'gatherRanks' || op === 'joinRanks' || (op === 'relay' && attrs['phase'] === 'give');

/** graph: what each rank runs. Throws VerifyError for the first value that must be uniform and varies. */
export function verifyRanks(graph: Graph, ops: OpTable): Graph {
  const varies = new Array<boolean>(graph.types.length).fill(false),
    isShare = (v: ValueId): boolean => graph.types[v].axes?.some((a) => a !== null) ?? false;
  for (const { value, name, kind } of graph.inputs)
    varies[value] = isShare(value) || (kind === 'input' && name === RANK);
  for (const node of graph.nodes) {
    const { unread = [], lower } = ops.get(node.op) ?? {},
      read = node.inputs.filter((_, i) => !unread.includes(i));
    if (lower?.kind === 'collective')
      // Of an exchange: the counts of rows, and the slots.
      for (const v of node.inputs.slice(1, 3))
        if (varies[v])
          throw new VerifyError('ranks', `${node.op} in ${node.scope}: its sizes differ from rank to rank`);
    const from = read.some((v) => varies[v] || dimValues(graph.types[v]).some((d) => varies[d]));
    for (const out of node.outputs)
      varies[out] =
        !makesUniform(node) && (from || node.op === 'relay' || dimValues(graph.types[out]).some((d) => varies[d]));
  }
  const check = (v: ValueId, what: string): void => {
    if (varies[v]) throw new VerifyError('ranks', `${what} would differ from rank to rank`);
  };
  for (const { name, value } of graph.outputs) check(value, `output ${name}`);
  for (const { state, value, unless } of graph.updates) {
    const { name = '' } = graph.inputs.find((i) => i.value === state) ?? {};
    if (!isShare(state)) check(value, `the new value of ${name}`);
    if (unless !== null) check(unless, `the guard of the update of ${name}`);
  }
  return graph;
}
