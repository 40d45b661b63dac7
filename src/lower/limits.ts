// Lowers within the limits of a device: refuses dtypes that its memory cannot hold, and keeps kernels within its number
// of buffers.
import { UserError } from '../base/errors.ts';
import { showType } from '../base/shape.ts';
import type { OpTable } from '../graph/builder.ts';
import type { Graph, ValueId } from '../graph/graph.ts';
import type { Limits } from '../graph/limits.ts';
import { buffersOf, groupKernels, type Group, type Grouping } from './group.ts';
import type { Storage } from './scope.ts';
import { decideStorage, readInputs } from './store.ts';
import type { Exchanges } from './task.ts';

/** Throws UserError if the graph has a value of a dtype that the device cannot store. */
export function checkDtypes(graph: Graph, { dtypes }: Limits): void {
  const at = graph.types.findIndex((t) => !dtypes.includes(t.dtype));
  if (at < 0) return;
  const { name = `%${at}` } = graph.inputs.find((i) => i.value === at) ?? {};
  throw new UserError(
    `the device cannot store ${graph.types[at].dtype}: ${name} is ${showType(graph.types[at])}`,
    `it stores ${dtypes.join(', ')}`,
  );
}

/**
 * Groups values into kernels of at most `limits.buffers` buffers. A value that would read more is given fewer operands:
 * what it computes on the way is stored. Throws UserError if a single op has more operands than a kernel may have.
 */
export function groupWithin(
  graph: Graph,
  ops: OpTable,
  limits: Limits,
  exchanges?: Exchanges,
): Grouping & { readonly storage: Storage } {
  const mustStore = new Set<ValueId>();
  for (;;) {
    const storage = decideStorage(graph, ops, limits, mustStore),
      grouping = groupKernels(storage, exchanges),
      large = grouping.groups.find((g) => limits.buffers !== null && buffersOf(storage, g) > limits.buffers);
    if (!large) return { storage, ...grouping };
    const before = mustStore.size;
    for (const v of computedWithin(storage, large)) mustStore.add(v);
    if (mustStore.size === before) throw tooManyBuffers(storage, large);
  }
}

/** Operands of the group's values that the kernel computes itself. */
function computedWithin({ ops, producers, stored }: Storage, group: Group): ValueId[] {
  return group.members.flatMap((v) => {
    const node = producers[v];
    return node ? readInputs(node, ops).filter((x) => producers[x] && !stored.has(x)) : [];
  });
}

function tooManyBuffers(storage: Storage, group: Group): UserError {
  const node = storage.producers[group.members[0]];
  return new UserError(
    `${node?.op ?? 'a kernel'}${node?.scope ? ` in ${node.scope}` : ''} needs ${buffersOf(storage, group)} buffers, ` +
      `a kernel of the device has at most ${storage.limits.buffers}`,
    'fewer operands in one op, such as concat in two steps',
  );
}
