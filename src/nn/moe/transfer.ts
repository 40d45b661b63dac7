// Which values move when an expert is merged into another or split: its parameters and the router's parts for it. The
// code that carries out the moves also moves the optimiser's moments. In: a layer, the values of its knob `slots`
// before and after; out: moves, in order.
import { UserError } from '../../base/errors.ts';
import type { Move, Place, Settings } from '../../trace/knobs.ts';
import { nameParameters } from '../../trace/module.ts';
import { Parameter } from '../../trace/parameter.ts';
import { ExpertBank } from './experts.ts';
import type { Router } from './router.ts';
import { readSlots } from './slots.ts';
import type { Experts } from './strategies.ts';

/** The router's parameters that have a part for each expert. */
export function routerParts(router: Router): { readonly parameter: Parameter; readonly axis: number }[] {
  return Object.entries(router.expertAxes ?? {}).map(([name, axis]) => {
    const parameter = (router as unknown as Readonly<Record<string, unknown>>)[name];
    if (!(parameter instanceof Parameter))
      throw new UserError(`MoE: the router's expertAxes names ${name}, which is no parameter of it`);
    return { parameter, axis };
  });
}

/** Pairs of places: of expert `to`, and of expert `from`. Throws UserError if their shapes differ. */
export function expertPairs(
  { experts, router }: { readonly experts: Experts; readonly router: Router },
  to: number,
  from: number,
): (readonly [to: Place<Parameter>, from: Place<Parameter>])[] {
  const parts = (all: Iterable<{ readonly parameter: Parameter; readonly axis: number }>) =>
    [...all].map(
      (p) =>
        [
          { ...p, part: to },
          { ...p, part: from },
        ] as const,
    );
  const own =
    experts instanceof ExpertBank
      ? parts([...nameParameters(experts).parameters.values()].map((parameter) => ({ parameter, axis: 0 })))
      : whole(experts, to, from);
  return [...own, ...parts(routerParts(router))];
}

/** Those pairs for experts that are modules. */
function whole(
  experts: readonly object[],
  to: number,
  from: number,
): (readonly [to: Place<Parameter>, from: Place<Parameter>])[] {
  const [mine, others] = [to, from].map((e) => nameParameters(experts[e]).parameters),
    names = new Set([...mine.keys(), ...others.keys()]);
  return [...names].map((name) => {
    const a = mine.get(name),
      b = others.get(name),
      shape = (p: Parameter | undefined): string => (p ? `${p.dtype} [${p.shape.join(', ')}]` : 'none');
    if (!a || !b || shape(a) !== shape(b)) {
      throw new UserError(
        `MoE: experts ${from} and ${to} are of different shapes: ${name || 'the parameter'} is ` +
          `${shape(b)} and ${shape(a)}`,
        'only experts with parameters of the same shapes can be merged or copied',
      );
    }
    return [
      { parameter: a, axis: 0, part: null },
      { parameter: b, axis: 0, part: null },
    ] as const;
  });
}

/**
 * The moves for a change of `slots` from one value to the next. A step back to an earlier value, as when a checkpoint
 * is restored, moves nothing.
 */
export function transferMoE(
  moe: { readonly experts: Experts; readonly router: Router },
  from: Settings,
  to: Settings,
): Move<Parameter>[] {
  const old = readSlots(from['slots']),
    next = readSlots(to['slots']);
  if (next.count <= old.count) return [];
  if (next.count !== old.count + 1 || next.before.join() !== old.families.join())
    throw new UserError(
      'MoE: the experts of the layer were changed by another change in between',
      "decide again, with the layer's current slots",
    );
  return next.changes.flatMap((change): Move<Parameter>[] => {
    switch (change.does) {
      case 'prune':
        return [];
      case 'split':
        return expertPairs(moe, change.into, change.expert).map(([target, source]) => ({ to: target, from: source }));
      case 'merge':
        return expertPairs(moe, change.into, change.expert).map(([target, source]) => ({
          to: target,
          from: target,
          mix: { with: source, share: change.share },
        }));
    }
  });
}
