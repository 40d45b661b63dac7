// The elementary functions as C-like text: one function each, which kernels call.
import { ELEMENTARY, functionOf } from '../../kernel/functions.ts';
import type { Dialect } from './dialect.ts';
import { ExprWriter, nameOf } from './expr.ts';
import { block } from './text.ts';

/** Definitions of all of them. */
export function defineFunctions(d: Dialect): string[] {
  return ELEMENTARY.flatMap((op) => {
    const { argument, body } = functionOf(op),
      w = new ExprWriter(d),
      value = w.value(body);
    return block(d.functionHead(nameOf(op), 'float32', w.value(argument)), [...w.lines, `return ${value};`]);
  });
}
