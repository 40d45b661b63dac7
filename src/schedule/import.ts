// A copy of a kernel whose expressions come from another `Exprs`, so that a schedule can make expressions of its own
// from them.
import type { Exprs, Expr, Var } from '../kernel/expr.ts';
import type { Kernel, LoopKernel, MatmulKernel, Matrix, Stmt } from '../kernel/kernel.ts';
import { transplant } from '../kernel/rewrite.ts';

export function importKernel(e: Exprs, kernel: Kernel): Kernel {
  const memo = new Map<Expr, Expr>(),
    go = (x: Expr): Expr => transplant(e, x, memo),
    variable = (v: Var): Var => go(v) as Var,
    matrix = (m: Matrix): Matrix => ({ ...m, at: go(m.at) }),
    all = (body: readonly Stmt[]): Stmt[] => body.map(statement);
  return kernel.form === 'loops' ? loops(kernel) : matmul(kernel);

  function statement(s: Stmt): Stmt {
    switch (s.s) {
      case 'for':
        return { ...s, index: variable(s.index), extent: go(s.extent), body: all(s.body) };
      case 'if':
        return { ...s, condition: go(s.condition), body: all(s.body) };
      case 'set':
        return { ...s, index: s.index && go(s.index), value: go(s.value) };
      case 'fill':
        return s;
      case 'store':
        return { ...s, index: go(s.index), value: go(s.value) };
      case 'reduce':
        return {
          ...s,
          index: variable(s.index),
          extent: go(s.extent),
          targets: s.targets.map((t) => ({ ...t, value: go(t.value) })),
        };
      case 'product':
        return {
          ...s,
          rows: go(s.rows),
          depth: go(s.depth),
          to: matrix(s.to),
          a: matrix(s.a),
          b: matrix(s.b),
        };
      case 'transpose':
      case 'prefetch':
        return { ...s, rows: go(s.rows), from: matrix(s.from) };
      case 'histogram':
        return { ...s, index: variable(s.index), extent: go(s.extent), key: go(s.key) };
      case 'scan':
        return s;
      case 'rank':
        return {
          ...s,
          index: variable(s.index),
          extent: go(s.extent),
          value: go(s.value),
          body: s.body.map((b) => ({ ...b, index: go(b.index), value: go(b.value) })),
        };
    }
  }

  function loops(k: LoopKernel): LoopKernel {
    return {
      ...k,
      grid: { ...k.grid, index: variable(k.grid.index), extent: go(k.grid.extent) },
      body: all(k.body),
    };
  }

  function matmul(k: MatmulKernel): MatmulKernel {
    const [z, i, j, depth] = [k.z, k.i, k.j, k.k].map(variable);
    return {
      ...k,
      z,
      i,
      j,
      k: depth,
      a: go(k.a),
      b: go(k.b),
      epilogue: { row: all(k.epilogue.row), element: all(k.epilogue.element) },
    };
  }
}
