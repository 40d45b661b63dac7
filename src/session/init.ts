// Starts a model from the parameters of another one, for fine-tuning. In: a session and tensors by name, of which some
// are renamed or left out by pattern; out: the session with these values, and the names of all that was not taken as
// it is, or a UserError and nothing changed.
import { convert } from '../base/convert.ts';
import { UserError } from '../base/errors.ts';
import { isHalf } from '../base/half.ts';
import { aList, anObject, aText } from '../base/kinds.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import type { HostTensor } from '../base/tensor.ts';
import { listed } from '../base/words.ts';
import { isParameter } from '../graph/state.ts';
import { storedDtype } from './precision.ts';
import type { Session } from './session.ts';

/** In a pattern, * stands for any text, also for none and for text with dots. */
export interface InitOptions {
  /** Patterns of names in the source, and the names in the model: { 'old.*': 'new.*' }. The first that fits applies. */
  readonly rename?: Readonly<Record<string, string>> | undefined;
  /** Patterns of names, after `rename`: such tensors are not read, and such parameters keep their initial values. */
  readonly skip?: readonly string[] | undefined;
  /** The source's name in errors; default 'the source'. */
  readonly where?: string | undefined;
}

/** What `initFrom` did. Names of parameters are those of the model, except `from` and `unused`. */
export interface Initialised {
  /** Number of parameters that were set. */
  readonly taken: number;
  readonly renamed: readonly { readonly from: string; readonly to: string }[];
  /** Parameters that keep their initial values. */
  readonly kept: readonly string[];
  /** Tensors of the source that were left out. */
  readonly unused: readonly string[];
}

const KEYS: KeysOf<InitOptions> = { rename: anObject, skip: aList, where: aText };
const MOST = 5; // names that an error lists

function pattern(text: string): RegExp {
  const parts = text.split('*').map((part) => part.replaceAll(/[\\^$.|?+()[\]{}]/g, String.raw`\$&`));
  return new RegExp(`^${parts.join('(.*)')}$`, 's');
}

const unfit = (where: string, what: string): UserError =>
  new UserError(
    `${where} does not fit the model: ${what}`,
    'rename tensors (--init-rename OLD=NEW), or leave them out, so that the model keeps its initial values ' +
      '(--init-skip PATTERN); in code and configs: rename and skip',
  );

/** The names in the model of the source's tensors. Throws UserError for a rule that fits nothing. */
function renames(names: readonly string[], rules: Readonly<Record<string, string>>, where: string): string[] {
  const all = Object.entries(rules).map(([from, to]) => {
    if (from.split('*').length !== to.split('*').length)
      throw new UserError(`rename ${from} to ${to}: both need the same number of *`, "{ 'old.*': 'new.*' }");
    return { from, to, fits: pattern(from) };
  });
  const used = new Set<string>();
  const out = names.map((name) => {
    for (const { from, to, fits } of all) {
      const found = fits.exec(name);
      if (!found) continue;
      used.add(from);
      return to.split('*').reduce((text, part, i) => `${text}${found[i] ?? ''}${part}`);
    }
    return name;
  });
  const idle = all.find(({ from }) => !used.has(from));
  if (idle) throw new UserError(`rename ${idle.from}: ${where} has no such tensor`, `it has ${listed(names, MOST)}`);
  return out;
}

/**
 * Sets the parameters of a session that has done no steps from tensors by name, such as those of `readSafetensors`.
 * The optimiser, the steps and the seed stay as they are. Tensors with a / in their names (moments of an optimiser) are
 * no parameters and are not used. Every parameter must get a value of its shape, and every tensor must be used, unless
 * `skip` names it. float32, bfloat16 and float16 are converted to what the session stores.
 *
 * Rejects with a UserError, with nothing changed, for parameters without a tensor, tensors without a parameter, other
 * shapes, two tensors of one name, and rules that fit nothing.
 */
export async function initFrom(
  session: Session,
  tensors: ReadonlyMap<string, HostTensor>,
  options: InitOptions = {},
): Promise<Initialised> {
  checkOptions('initFrom', options, KEYS);
  const { rename = {}, skip = [], where = 'the source' } = options;
  if (session.steps > 0)
    throw new UserError(`initFrom: the session has done ${session.steps} steps`, 'call it before the first step');
  const { parameters } = session.named,
    names = [...tensors.keys()].filter((name) => isParameter(name)),
    targets = renames(names, rename, where),
    source = new Map<string, string>();
  const skips = skip.map((text) => ({ text, fits: pattern(text) })),
    skipped = (name: string): boolean => skips.some(({ fits }) => fits.test(name)),
    both = [...parameters.keys(), ...targets];
  for (const { text, fits } of skips)
    if (!both.some((name) => fits.test(name)))
      throw new UserError(`skip ${text}: neither the model nor ${where} has such a name`, listed(both, MOST));
  names.forEach((from, i) => {
    const other = source.get(targets[i]);
    if (other !== undefined) throw unfit(where, `${other} and ${from} would both become ${targets[i]}`);
    source.set(targets[i], from);
  });
  const missing = [...parameters.keys()].filter((name) => !source.has(name) && !skipped(name)),
    extra = targets.filter((name) => !parameters.has(name) && !skipped(name)),
    taken = targets.filter((name) => parameters.has(name) && !skipped(name));
  const shape = (of: { readonly shape: readonly number[] } | undefined): string => `[${of?.shape.join(', ') ?? ''}]`,
    tensor = (name: string): HostTensor => tensors.get(source.get(name) ?? '') as HostTensor;
  const others = taken
    .filter((name) => shape(parameters.get(name)) !== shape(tensor(name)))
    .map((name) => `${name} is ${shape(tensor(name))} there, and ${shape(parameters.get(name))} in the model`);
  const faults = [
    ...(missing.length > 0 ? [`it lacks ${listed(missing, MOST)}`] : []),
    ...(extra.length > 0 ? [`the model lacks ${listed(extra, MOST)}`] : []),
    ...(others.length > 0 ? [`other shapes: ${listed(others, MOST)}`] : []),
  ];
  if (faults.length > 0) throw unfit(where, faults.join('; '));
  const { precision } = session.options;
  await session.restore(
    0,
    taken.map((name) => {
      const value = tensor(name),
        dtype = storedDtype(session.named, precision, name),
        converts = dtype !== null && dtype !== value.dtype && [dtype, value.dtype].every(isStored);
      return { name, value: converts ? convert(value, dtype) : value };
    }),
  );
  return {
    taken: taken.length,
    renamed: taken.flatMap((to) => (source.get(to) === to ? [] : [{ from: source.get(to) ?? to, to }])),
    kept: [...parameters.keys()].filter(skipped),
    unused: targets.filter(skipped).map((name) => source.get(name) ?? name),
  };
}

const isStored = (dtype: string): boolean => dtype === 'float32' || isHalf(dtype);
