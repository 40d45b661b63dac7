// Kernels as C functions, as device/native/runtime.h describes them: NAME_tasks gives the number of tasks, NAME runs
// one task.
import type { CpuKernel, CpuLoops } from '../../schedule/cpu-kernel.ts';
import { forCpu, type Scheduled } from '../../schedule/schedule.ts';
import { ExprWriter } from '../clike/expr.ts';
import { defineFunctions } from '../clike/functions.ts';
import { StmtWriter } from '../clike/stmt.ts';
import { block } from '../clike/text.ts';
import { C, cType } from './dialect.ts';
import { emitMatmul } from './matmul.ts';

export const functionName = (key: string): string => `k_${key}`;

/** The text of one C file with these kernels. The compiler finds the headers in its folder for includes. */
export function emitFile(kernels: readonly { readonly key: string; readonly kernel: Scheduled }[]): string {
  const lines = kernels.flatMap(({ key, kernel: given }) => {
    const name = functionName(key),
      kernel = forCpu(given),
      params = bindParameters(kernel);
    return [...(kernel.form === 'loops' ? emitLoops(name, kernel, params) : emitMatmul(name, kernel, params)), ''];
  });
  const headers = ['runtime.h', 'math.h', 'kernel.h'].map((h) => `#include "${h}"`);
  return [...headers, ...defineFunctions(C), '', ...lines].join('\n');
}

/** Declares C variables for buffers and run-time integers. */
function bindParameters({ buffers, ints }: CpuKernel): string[] {
  return [
    ...buffers.map((b, i) => `${b.access === 'read' ? 'const ' : ''}${cType(b.dtype)} *const b${i} = c->buf[${i}];`),
    ...Array.from({ length: ints }, (_, i) => C.constant('index', `n${i}`, `c->n[${i}]`)),
  ];
}

function emitLoops(name: string, { grid, body, locals }: CpuLoops, params: readonly string[]): string[] {
  const w = new ExprWriter(C),
    extent = w.value(grid.extent),
    stmts = new StmtWriter(C, locals);
  const head = [...params, ...w.lines, C.constant('index', 'all', extent)];
  return [
    ...block(`int64_t ${name}_tasks(const dm_ctx *c) `, [...head, `return (all + ${grid.grain - 1}) / ${grid.grain};`]),
    ...block(`void ${name}(const dm_ctx *c, int64_t task) `, [
      ...head,
      C.constant('index', 'first', `dm_own(c, task, (all + ${grid.grain - 1}) / ${grid.grain}) * ${grid.grain}`),
      C.constant('index', 'last', C.select(`first + ${grid.grain} < all`, `first + ${grid.grain}`, 'all')),
      ...stmts.loop(grid.index, 'first', 'last', grid.vector, body, undefined, stmts.declarations()),
    ]),
  ];
}
