// Huge pages for the memory of the WebAssembly device, in Node on Linux: one page fault for 2 MiB in place of 512, most
// of which a first step pays. In: memory that nothing was written to yet. It is only asked for: where that cannot be
// done, memory is as it was.
import { createRequire } from 'node:module';
import { platform } from 'node:os';
import type koffi from 'koffi';

const MADV_HUGEPAGE = 14;

export function askForHugePages(memory: Uint8Array): void {
  if (platform() !== 'linux') return;
  try {
    const { load } = createRequire(import.meta.url)('koffi') as typeof koffi;
    load('libc.so.6').func('int madvise(void *from, size_t bytes, int advice)')(
      memory,
      memory.byteLength,
      MADV_HUGEPAGE,
    );
  } catch {
    /* no koffi for this machine, or another C library */
  }
}
