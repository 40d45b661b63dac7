// Kernels for a GPU as text, for people.
import { printCommon, printExpr } from '../kernel/print.ts';
import type { GpuKernel, GpuStmt } from './gpu-kernel.ts';
import { sharedBytes } from './gpu-verify.ts';

function printStmt(s: GpuStmt, indent: string): string {
  const block = (body: readonly GpuStmt[]): string => body.map((b) => printStmt(b, `${indent}  `)).join('\n');
  switch (s.s) {
    case 'for': {
      const from = s.from.k === 'const' && s.from.value === 0 ? '' : ` from ${printExpr(s.from)}`,
        step = s.step === 1 ? '' : ` step ${s.step}`;
      return `${indent}for ${s.index.name} < ${printExpr(s.below)}${from}${step}:\n${block(s.body)}`;
    }
    case 'barrier':
      return `${indent}barrier`;
    default:
      return printCommon(s, indent, block);
  }
}

export function printGpu(k: GpuKernel): string {
  const buffers = k.buffers.map((b, i) => `b${i}: ${b.access} ${b.dtype}`).join(', '),
    locals = k.locals.map(
      (l, i) => `  t${i}: ${l.shared ? 'shared ' : ''}${l.dtype}${l.length ? `[${l.length}]` : ''}\n`,
    );
  return (
    `threads (${buffers})${k.ints ? ` ints ${k.ints}` : ''}\n${locals.join('')}` +
    `  ${k.block.name} < ${k.blocks}, ${k.thread.name} < ${k.threads}, ${sharedBytes(k)} bytes shared:\n` +
    k.body.map((s) => printStmt(s, '    ')).join('\n')
  );
}
