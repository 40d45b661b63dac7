// A sum in parts (base/parts.ts) as a loop over the parts. A finished sum waits at the level that says how often it was
// joined; the next sum of the same level is joined with it.
import type { KernelParts, Parts } from '../base/parts.ts';
import type { Expr, Exprs } from './expr.ts';
import type { IfStmt } from './kernel.ts';

/** The first element of part p, of `count` elements. */
export function partStart(e: Exprs, count: Expr, p: Expr, { parts, sample, offsets, step = 1 }: KernelParts): Expr {
  if (offsets !== undefined)
    return e.scale(e.op('cast', [e.load(offsets, e.scale(p, step), 'int32')], 'index'), sample);
  const samples = e.div(count, sample),
    scaled =
      samples.k === 'const'
        ? e.scale(p, samples.value)
        : p.k === 'const'
          ? e.scale(samples, p.value)
          : e.op('mul', [p, samples], 'index');
  return e.scale(e.div(scaled, parts), sample);
}

/** How many levels there are. */
export const levelsOf = ({ parts }: Parts): number => Math.log2(parts);

/** What follows the sum of part p. wait: keeps the sum at a level. join: adds the sum that waits there to it. */
export function joinPart<S>(
  e: Exprs,
  p: Expr,
  parts: Parts,
  wait: (level: number) => S[],
  join: (level: number) => S[],
): (S | IfStmt<S>)[] {
  const when = (condition: Expr, body: (S | IfStmt<S>)[]): IfStmt<S> => ({ s: 'if', condition, body: body as S[] });
  const from = (level: number): (S | IfStmt<S>)[] => {
    if (level === levelsOf(parts)) return [];
    const rest = e.mod(e.add(p, 1), 2 ** (level + 1));
    return [
      when(e.lt(e.index(0), rest), wait(level)),
      when(e.lt(rest, e.index(1)), [...join(level), ...from(level + 1)]),
    ];
  };
  return from(0);
}
