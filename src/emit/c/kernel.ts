// Kernels as C functions, as device/native/runtime.h describes them: NAME_tasks gives the number of tasks, NAME runs
// one task.
import type { CpuKernel, CpuLoops } from '../../schedule/cpu-kernel.ts';
import { cType, ExprWriter } from './expr.ts';
import { emitMatmul } from './matmul.ts';
import { declareLocals, emitBody, outerLoop } from './stmt.ts';

export const functionName = (key: string): string => `k_${key}`;

/**
 * The text of one C file with these kernels. `include`: the folder of runtime.h and math.h, as the compiler finds it.
 */
export function emitFile(kernels: readonly { readonly key: string; readonly kernel: CpuKernel }[]): string {
  return [
    '#include "runtime.h"',
    '#include "math.h"',
    '#include "kernel.h"',
    '',
    ...kernels.map(({ key, kernel }) => emitKernel(functionName(key), kernel)),
  ].join('\n');
}

export function emitKernel(name: string, kernel: CpuKernel): string {
  const params = bindParameters(kernel);
  return kernel.form === 'loops' ? emitLoops(name, kernel, params) : emitMatmul(name, kernel, params);
}

/** Declares C variables for buffers and run-time integers. */
function bindParameters(kernel: CpuKernel): string[] {
  return [
    ...kernel.buffers.map(
      (b, i) => `${b.access === 'read' ? 'const ' : ''}${cType(b.dtype)} *const b${i} = c->buf[${i}]; (void)b${i};`,
    ),
    ...Array.from({ length: kernel.ints }, (_, i) => `const int64_t n${i} = c->n[${i}]; (void)n${i};`),
  ];
}

function emitLoops(name: string, k: CpuLoops, params: readonly string[]): string {
  const { grid } = k,
    w = new ExprWriter(),
    extent = w.value(grid.extent),
    g = grid.index.name;
  return [
    `int64_t ${name}_tasks(const dm_ctx *c) {`,
    ...params.map((p) => `  ${p}`),
    ...w.lines.map((l) => `  ${l}`),
    `  return (${extent} + ${grid.grain - 1}) / ${grid.grain};`,
    '}',
    `void ${name}(const dm_ctx *c, int64_t task) {`,
    ...params.map((p) => `  ${p}`),
    ...w.lines.map((l) => `  ${l}`),
    `  const int64_t all = ${extent}, first = task * ${grid.grain}, last = first + ${grid.grain} < all ? first + ` +
      `${grid.grain} : all;`,
    ...(grid.vector ? ['  DM_VECTOR'] : []),
    `  for (int64_t ${g} = first; ${g} < last; ${g}++) {`,
    ...outerLoop({ vector: grid.vector, body: k.body }).map((l) => `    ${l}`),
    ...declareLocals(k.locals).map((l) => `    ${l}`),
    ...emitBody(k.body).map((l) => `    ${l}`),
    '  }',
    '}',
    '',
  ].join('\n');
}
