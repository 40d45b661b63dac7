// Asks Linux for huge pages for the memory of the WebAssembly device: one page fault for 2 MiB instead of 512; most of
// these faults happen in the first step. In: memory that was not written yet. If the system refuses, nothing changes.
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
