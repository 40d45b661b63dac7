// Places values in the arena: values that are alive at the same time must not overlap in memory. The largest value is
// placed first, each at the lowest offset that is free during its life (greedy by size; Pisarchyk & Lee, arXiv
// 2001.03288).
export const ALIGN = 256;
export const aligned = (bytes: number): number => Math.ceil(bytes / ALIGN) * ALIGN;

export interface Block {
  readonly bytes: number;
  first: number;
  last: number;
  offset: number;
}

/** Sets the blocks' offsets; returns the arena's size in bytes. */
export function packArena(blocks: readonly Block[]): number {
  const placed: Block[] = []; // by offset
  let size = 0;
  for (const block of [...blocks].sort((a, b) => b.bytes - a.bytes || a.first - b.first)) {
    let offset = 0;
    for (const p of placed) {
      if (p.first > block.last || block.first > p.last) continue;
      if (offset + block.bytes <= p.offset) break;
      offset = Math.max(offset, p.offset + aligned(p.bytes));
    }
    block.offset = offset;
    const at = placed.findIndex((p) => p.offset >= offset);
    placed.splice(at < 0 ? placed.length : at, 0, block);
    size = Math.max(size, offset + aligned(block.bytes));
  }
  return size;
}
