// Scheduled kernels as text, for people (`dynamoe inspect --stage schedule`).
import { printCommon, printExpr, printHead, printMatrix, printProduct, printShared } from '../kernel/print.ts';
import type { CpuStmt, Packing } from './cpu-kernel.ts';
import { printGpu } from './gpu-print.ts';
import type { Scheduled } from './schedule.ts';

function printStmt(s: CpuStmt, indent: string): string {
  const block = (body: readonly CpuStmt[]): string => body.map((b) => printStmt(b, `${indent}  `)).join('\n');
  switch (s.s) {
    case 'for':
      return `${indent}for ${s.index.name} < ${printExpr(s.extent)}${s.vector ? ' vector' : ''}:\n${block(s.body)}`;
    case 'reduce': {
      const text = printShared([s.extent, ...s.targets.map((t) => t.value)], indent, (p) =>
        s.targets.map((t) => `t${t.local} = ${t.op}(${s.index.name} < ${p(s.extent)}: ${p(t.value)})`),
      );
      if (!s.blocks) return text;
      const { index, values } = s.blocks;
      return `${text}\n${printShared(values, `${indent}  `, (p) => [
        `in blocks of 16, ${index.name}: ${values.map(p).join(', ')}`,
      ])}`;
    }
    case 'prefetch':
      return `${indent}prefetch b${s.buffer}[${printExpr(s.index)}]`;
    case 'transpose':
      return `${indent}t${s.to} = transpose of ${printMatrix(s.from)}, ${printExpr(s.rows)} rows, ${s.columns} columns`;
    case 'product':
      return printShared([s.rows, s.depth, s.to.at, s.a.at, s.b.at], indent, (p) => [
        `${printMatrix(s.to, p)} += ${printMatrix(s.a, p)} * ${printMatrix(s.b, p)}, ` +
          `${p(s.rows)} rows, ${s.width} lanes, depth ${p(s.depth)}`,
      ]);
    default:
      return printCommon(s, indent, block);
  }
}

export function printScheduled(k: Scheduled): string {
  if (k.form === 'threads') return printGpu(k);
  const body = (stmts: readonly CpuStmt[]): string => stmts.map((s) => printStmt(s, '    ')).join('\n');
  if (k.form === 'loops') {
    const { index, extent, grain, vector } = k.grid;
    return (
      `loops ${printHead(k)}  grid ${index.name} < ${printExpr(extent)}, tasks of ${grain}` +
      `${vector ? ' vector' : ''}:\n${body(k.body)}`
    );
  }
  return (
    `matmul ${printHead(k)}${printProduct(k)}\n${packing('a', k.packA)}${packing('b', k.packB)}  ` +
    `epilogue:\n${body([...k.epilogue.row, ...k.epilogue.element])}`
  );
}

const packing = (name: string, { inner, run }: Packing): string =>
  `  pack ${name} along ${inner.name}` +
  `${run ? `, in runs of ${run.length}, ${run.index.name}: ${printExpr(run.value)}` : ''}\n`;
