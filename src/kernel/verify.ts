// Checks a Kernel: buffers, locals and integers exist; stores go to buffers that may be written; no reduction is left
// inside an expression; variables are used inside their loops.
import { VerifyError } from '../base/errors.ts';
import { postorder, type Expr, type Var } from './expr.ts';
import type { Kernel, Stmt } from './kernel.ts';

export function verifyKernel(k: Kernel): Kernel {
  const fail = (message: string): never => {
    throw new VerifyError('kernel', message);
  };
  const checkExpr = (e: Expr, scope: ReadonlySet<Var>, sum = false): void => {
    for (const x of postorder([e])) {
      if (x.k === 'var' && !scope.has(x)) fail(`${x.name} is used outside its loop`);
      if (x.k === 'load' && !k.buffers[x.buffer]) fail(`no buffer ${x.buffer}`);
      if (x.k === 'load' && k.buffers[x.buffer].access === 'write')
        fail(`buffer ${x.buffer} is read, but its access is 'write' (lower: { update: true } allows both)`);
      if (x.k === 'local' && !k.locals[x.local]) fail(`no local ${x.local}`);
      if (x.k === 'int' && x.slot >= k.ints) fail(`no integer ${x.slot}`);
      if (x.k === 'reduce') fail('a reduction stands inside an expression');
      if (x.k === 'sum' && !sum) fail('the sum of a matmul is used outside its epilogue');
    }
  };
  const checkBody = (body: readonly Stmt[], scope: ReadonlySet<Var>, sum = false): void => {
    for (const s of body) {
      switch (s.s) {
        case 'for':
          checkExpr(s.extent, scope);
          checkBody(s.body, new Set([...scope, s.index]), sum);
          break;
        case 'if':
          checkExpr(s.condition, scope, sum);
          checkBody(s.body, scope, sum);
          break;
        case 'set':
          checkExpr(s.value, scope, sum);
          if (s.index) checkExpr(s.index, scope);
          break;
        case 'store':
          if (k.buffers[s.buffer]?.access === 'read')
            fail(`a store goes to buffer ${s.buffer}, whose access is 'read'`);
          checkExpr(s.value, scope, sum);
          checkExpr(s.index, scope);
          break;
        case 'reduce':
          checkExpr(s.extent, scope);
          for (const t of s.targets) checkExpr(t.value, new Set([...scope, s.index]));
          for (const value of s.blocks?.values ?? [])
            checkExpr(value, new Set([...scope, s.index, ...(s.blocks ? [s.blocks.index] : [])]));
          break;
        case 'fill':
          break;
        case 'turn':
          for (const x of [s.rows, s.from.at]) checkExpr(x, scope);
          if (!k.locals[s.to] || !k.buffers[s.from.of])
            fail('a transpose reads a buffer or writes a local that does not exist');
          checkBody(s.plain, scope, sum);
          break;
        case 'prefetch':
          checkExpr(s.index, scope);
          break;
        case 'product':
          for (const x of [s.rows, s.depth, s.to.at, s.a.at, s.b.at]) checkExpr(x, scope);
          for (const m of [s.to, s.a, s.b])
            if (!(m.in === 'local' ? k.locals : k.buffers)[m.of]) fail(`no ${m.in} ${m.of}`);
          if (s.to.in === 'buffer' && k.buffers[s.to.of]?.access !== 'update')
            fail(`a product adds to buffer ${s.to.of}, whose access is not 'update'`);
          if (s.width > 0 && (s.width % 16 !== 0 || s.width < s.lanes || s.to.columns !== 1 || s.b.columns !== 1))
            fail('the operands of a product have no room for its lanes');
          checkBody(s.plain, scope, sum);
          break;
      }
    }
  };
  if (k.form === 'loops') {
    checkExpr(k.grid.extent, new Set());
    checkBody(k.body, new Set([k.grid.index]));
  } else {
    checkExpr(k.a, new Set([k.z, k.i, k.k]));
    checkExpr(k.b, new Set([k.z, k.k, k.j]));
    if (k.packA.run) checkExpr(k.packA.run.value, new Set([k.z, k.i, k.k, k.packA.run.index]));
    if (k.packB.run) checkExpr(k.packB.run.value, new Set([k.z, k.k, k.j, k.packB.run.index]));
    checkBody(k.epilogue.row, new Set([k.z, k.i]));
    checkBody(k.epilogue.element, new Set([k.z, k.i, k.j]), true);
  }
  return k;
}
