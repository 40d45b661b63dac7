// Products that compute while the rows of experts come, or go. The product that reads the rows of an exchange computes
// slot z, one expert, when they have come, while those of slot z + 1 come. The product that makes rows for an exchange
// computes those of slot z + 1 while those of slot z are sent. In: calls in their order, with exchanges divided
// (exchanges.ts). Out: the same; an exchange that such a product can run beside begins before it, and is waited for
// after it.
import { byteSize, elements } from '../base/shape.ts';
import { groupsOf } from '../kernel/groups.ts';
import { shareOf } from '../kernel/shares.ts';
import type { Call, CollectiveCall, KernelCall, Lowered } from '../lower/lowered.ts';
import { memoryOf, type MemoryOf } from './memory-of.ts';

/** Smaller exchanges are not worth it: bytes of the rows. */
const LEAST = 1 << 18;

// Buffers of exchangeRows, and where its direction is among its integers.
const FROM = 0,
  OFFSETS = 3,
  TO = 4,
  BACK = 2;

export function runBySlot(lowered: Lowered, calls: readonly Call[]): readonly Call[] {
  const memory = memoryOf(lowered),
    result = [...calls];
  for (const given of calls) {
    if (given.kind !== 'collective' || given.collective !== 'exchangeRows' || given.phase === 'begin') continue;
    const { types } = lowered.graph,
      begun = given.begunBy,
      back = given.ints[BACK] === 1,
      at = result.indexOf(back ? (begun ?? given) : given),
      product = result.at(back ? at - 1 : at + 1);
    if (at === 0 || product?.kind !== 'kernel' || product.bySlot || byteSize(types[given.buffers[FROM]]) < LEAST)
      continue;
    if (!computesBySlot(lowered, memory, product, given, back ? FROM : TO)) continue;
    const { phase: _, begunBy: __, ...whole } = given,
      slots = back ? 'go' : 'come',
      begin: CollectiveCall = { ...whole, phase: 'begin', slots };
    result.splice(result.indexOf(given), 1);
    if (begun) result.splice(result.indexOf(begun), 1, ...(back ? [] : [begin]));
    const place = result.indexOf(product),
      own: Call = { ...product, bySlot: { begin, slots } };
    result.splice(place, 1, ...(begun && !back ? [own] : [begin, own]));
    const after = result.indexOf(own) + 1,
      next = back ? result.findIndex((c, i) => i >= after && memory.conflict(begin, c)) : after;
    result.splice(next < 0 ? result.length : next, 0, { ...whole, phase: 'wait', begunBy: begin });
  }
  return result;
}

/**
 * Whether a product uses of an exchange only the rows in one of its buffers, and for its group z only those of slot z.
 */
function computesBySlot(
  { graph: { types } }: Lowered,
  { memory, uses }: MemoryOf,
  product: KernelCall,
  exchange: CollectiveCall,
  buffer: number,
): boolean {
  const { kernel, buffers } = product,
    groups = groupsOf(kernel),
    rows = memory(exchange.buffers[buffer]),
    offsets = exchange.buffers[OFFSETS];
  if (kernel.form !== 'matmul' || kernel.dtype !== 'float32' || !groups) return false;
  if (memory(buffers[groups.offsets]) !== memory(offsets) || groups.groups !== elements(types[offsets].shape) - 1)
    return false;
  for (const [m, written] of uses(exchange)) {
    const own = uses(product).get(m);
    if (m === rows ? own !== (buffer === FROM) : own === true || (own !== undefined && written)) return false;
  }
  return buffers.every((v, i) => memory(v) !== rows || shareOf(kernel, i)?.startsWith('rows') === true);
}
