// Which parameters, or parts of them, training does not change. In: what users froze (`Parameter.frozen`) and what
// settings of modules freeze; out: for each parameter all of it, or parts along one dimension.
import { UserError } from '../base/errors.ts';
import type { Frozen } from '../optim/ages.ts';
import type { Kept } from '../trace/knobs.ts';
import type { Parameter } from '../trace/parameter.ts';

/** Throws UserError where a list does not fit its parameter, or parts along two dimensions are frozen. */
export function frozenIn(parameters: ReadonlyMap<string, Parameter>, kept: readonly Kept[]): Map<string, Frozen> {
  const byParameter = new Map<Parameter, Kept[]>();
  for (const one of kept) byParameter.set(one.parameter, [...(byParameter.get(one.parameter) ?? []), one]);
  return new Map(
    [...parameters].flatMap(([name, parameter]): [string, Frozen][] => {
      const { frozen, frozenAxis: axis } = parameter;
      const own: Kept[] = frozen === false ? [] : [{ parameter, axis, parts: frozen }];
      const all = [...own, ...(byParameter.get(parameter) ?? [])].map((one) => simple(name, one));
      const parts = all.filter((one) => one.parts === true || one.parts.includes(true));
      return parts.length > 0 ? [[name, parts.reduce((a, b) => both(name, a, b))]] : [];
    }),
  );
}

/** Checks the number of parts; if every part is frozen, the whole parameter is. */
function simple(name: string, { parameter: { shape }, axis, parts }: Kept): Frozen {
  if (parts !== true && parts.length !== shape[axis]) {
    throw new UserError(
      `${name}.frozen lists ${parts.length} parts, but dimension ${axis} (frozenAxis) of [${shape.join(', ')}] ` +
        `has ${shape[axis] ?? 'none'}`,
      'true, false, or true and false for each part',
    );
  }
  return { axis, parts: parts === true || parts.every((f) => f) || parts };
}

function both(name: string, a: Frozen, b: Frozen): Frozen {
  const { parts: own } = a,
    { parts: other } = b;
  if (own === true || other === true) return { axis: a.axis, parts: true };
  if (a.axis !== b.axis) {
    throw new UserError(
      `${name} is frozen in parts along dimensions ${a.axis} and ${b.axis}`,
      'freeze parts along one dimension only; settings of its layer freeze parts too',
    );
  }
  const parts = own.map((f, i) => f || other[i]);
  return { axis: a.axis, parts: parts.every((f) => f) || parts };
}
