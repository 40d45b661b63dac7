// How long kernels and exchanges take, roughly: on one core, over 1 Gbit/s. Only an order is decided by it
// (hide-exchanges.ts), so that it need not be known on which machine the program will run.
import { byteSize, boundOf, elements } from '../base/shape.ts';
import type { Storage } from './scope.ts';
import type { Runs } from './task.ts';

const FLOP = 0.01, // ns
  MEMORY_BYTE = 0.1,
  NETWORK_BYTE = 8,
  MESSAGE = 100_000;

/** ns. */
export function timeOf({ graph: { types } }: Storage, { kind, node, reads, roots }: Runs): number {
  const bytes = (vs: Iterable<number>): number => [...vs].reduce((n, v) => n + byteSize(types[v]), 0);
  if (kind === 'collective' && node) {
    // Of R equal shares of the data, one stays. What comes back, or is joined, has the size of an operand.
    const ranks = Number(node.attrs['ranks'] ?? 2),
      [size] = [bytes(node.op === 'gatherRanks' ? node.outputs : node.inputs.slice(0, 1))],
      all = node.op === 'joinRanks' ? 2 * size : Math.min(size, bytes(node.outputs));
    return MESSAGE + (NETWORK_BYTE * all * (ranks - 1)) / ranks;
  }
  const moved = MEMORY_BYTE * (bytes(reads) + bytes(roots));
  return kind === 'matmul' && node ? Math.max(moved, FLOP * flops()) : moved;

  function flops(): number {
    const [a, , c] = [...(node?.inputs.slice(0, 2) ?? []), node?.outputs[0] ?? 0].map((v) => types[v]),
      last = (t: typeof a): number => boundOf(t.shape[t.shape.length - 1] ?? 1);
    if (node?.op.startsWith('groupedOuter') === true) return 2 * elements(a.shape) * last(c);
    const depth = node?.attrs['transA'] === true ? boundOf(a.shape[a.shape.length - 2]) : last(a);
    return 2 * elements(c.shape) * depth;
  }
}
