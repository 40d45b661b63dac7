// Offsets in the arena: values whose lives overlap in time must not overlap in memory. Largest first, each at the lowest offset
// that is free during its life (greedy by size; Pisarchyk & Lee, arXiv 2001.03288).
export const ALIGN = 256;
export const aligned = (bytes: number): number => Math.ceil(bytes / ALIGN) * ALIGN;

export interface Block { readonly bytes: number; first: number; last: number; offset: number }

/** Sets the blocks' offsets; returns the arena's size in bytes. */
export function packArena(blocks: readonly Block[]): number {
  const placed: Block[] = [];
  let size = 0;
  for (const block of [...blocks].sort((a, b) => b.bytes - a.bytes || a.first - b.first)) {
    const neighbours = placed.filter((p) => p.first <= block.last && block.first <= p.last).sort((a, b) => a.offset - b.offset);
    let offset = 0;
    for (const n of neighbours) {
      if (offset + block.bytes <= n.offset) break;
      offset = Math.max(offset, n.offset + aligned(n.bytes));
    }
    block.offset = offset;
    placed.push(block);
    size = Math.max(size, offset + aligned(block.bytes));
  }
  return size;
}
