// Kernel to CpuKernel: how a CPU runs what the kernel says. No decision here changes a bit: sums keep their order.
import { Exprs } from '../kernel/expr.ts';
import type { Kernel, LoopKernel, MatmulKernel, Stmt } from '../kernel/kernel.ts';
import { importKernel } from './import.ts';
import type { CpuKernel, CpuLoops, CpuStmt } from './cpu-kernel.ts';
import { productLoops } from './cpu-product.ts';
import { elementRows } from './cpu-rows.ts';
import { CpuStatements } from './cpu-statements.ts';
import { packingOf, panelsOfB } from './packing.ts';
import type { CpuTarget } from './target.ts';

export function scheduleCpu(kernel: Kernel, target: CpuTarget): CpuKernel {
  const e = new Exprs(),
    own = importKernel(e, kernel);
  return own.form === 'loops' ? loops(e, own, target) : matmul(e, own, target);
}

function loops(e: Exprs, given: LoopKernel, target: CpuTarget): CpuLoops {
  const k = given.grid.row === null ? given : elementRows(e, given, given.grid.row),
    { index, extent, work, elements } = k.grid,
    statements = new CpuStatements(e, k, target),
    grain = work === null ? 1 : Math.max(1, Math.floor(target.task / work));
  return {
    ...k,
    grid: { index, extent, grain, vector: elements },
    body: statements.all(k.body),
    locals: statements.locals,
  };
}

function matmul(e: Exprs, k: MatmulKernel, target: CpuTarget): CpuKernel {
  // The matrix core computes in float32.
  if (k.dtype !== 'float32') return loops(e, productLoops(e, k), target);
  const statements = new CpuStatements(e, k, target),
    all = (body: readonly Stmt[]): CpuStmt[] => statements.all(body);
  const packB = packingOf(e, k.b, k.j, k.k);
  return {
    ...k,
    packA: packingOf(e, k.a, k.k, k.i),
    packB,
    panels: panelsOfB(k.b, packB, k.k, k.j, target.limits.panels?.width),
    epilogue: { row: all(k.epilogue.row), element: all(k.epilogue.element) },
    locals: statements.locals,
  };
}
