// Checks a CpuKernel: what kernel/verify.ts checks of a kernel, and that grain, lanes and packing fit.
import { KernelChecker, scopeOf, within, type Scope } from '../kernel/verify.ts';
import type { CpuKernel, CpuStmt } from './cpu-kernel.ts';

export function verifyCpu(k: CpuKernel): CpuKernel {
  const check = new KernelChecker('schedule', k);
  const all = (body: readonly CpuStmt[], scope: Scope): void => {
    for (const s of body) statement(s, scope);
  };
  const statement = (s: CpuStmt, scope: Scope): void => {
    switch (s.s) {
      case 'for':
        check.exprs([s.extent], scope);
        all(s.body, within(scope, s.index));
        break;
      case 'reduce':
        check.reduce(s, scope);
        if (s.blocks) check.exprs(s.blocks.values, within(scope, s.index, s.blocks.index));
        break;
      case 'transpose':
        check.transpose(s, scope);
        break;
      case 'prefetch':
        check.exprs([s.index], scope);
        break;
      case 'product':
        check.product(s, scope);
        if (s.width % 16 !== 0 || s.to.columns !== 1 || s.b.columns !== 1)
          check.fail('the operands of a product have no room for its lanes');
        break;
      default:
        check.common(s, scope, all);
    }
  };
  if (k.form === 'loops') {
    check.exprs([k.grid.extent], scopeOf());
    if (!(k.grid.grain >= 1)) check.fail(`a task has ${k.grid.grain} iterations`);
    all(k.body, scopeOf(k.grid.index));
    return k;
  }
  check.exprs([k.a], scopeOf(k.z, k.i, k.k));
  check.exprs([k.b], scopeOf(k.z, k.k, k.j));
  if (k.packA.run) check.exprs([k.packA.run.value], scopeOf(k.z, k.i, k.k, k.packA.run.index));
  if (k.packB.run) check.exprs([k.packB.run.value], scopeOf(k.z, k.k, k.j, k.packB.run.index));
  all(k.epilogue.row, scopeOf(k.z, k.i));
  all(k.epilogue.element, { ...scopeOf(k.z, k.i, k.j), sum: true });
  return k;
}
