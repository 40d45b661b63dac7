// How a session that resumes from a checkpoint differs from the one that wrote it: one line of text for each
// difference.
import { momentOf } from '../optim/updates.ts';
import { own } from '../base/own.ts';
import { UserError } from '../base/errors.ts';
import type { CheckpointMeta } from '../io/checkpoint.ts';
import type { Missed } from '../optim/ages.ts';
import type { Optimizer } from '../optim/optimizer.ts';
import type { Named } from '../trace/module.ts';
import type { Parameter } from '../trace/parameter.ts';
import type { UpdatingState } from './updating.ts';

type Settings = Readonly<Record<string, unknown>>;

const isRecord = (value: unknown): value is Settings =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const show = (value: unknown): string => (typeof value === 'string' ? value : (JSON.stringify(value) ?? 'none'));

/**
 * The optimiser state in a checkpoint (parts of sums, groups and ages of moments). Throws UserError if ages do not fit
 * the model: the file may be damaged.
 */
export function updatingIn(
  { optimizer, parts = 1 }: CheckpointMeta,
  { parameters }: Named,
  where: string,
): UpdatingState {
  if (!isRecord(optimizer)) return { parts };
  const missed = optimizer['missed'] ?? {};
  const bad = isRecord(missed) ? Object.keys(missed).find((name) => !isMissed(missed[name], parameters.get(name))) : '';
  if (bad === undefined) return { ...optimizer, parts };
  const of = bad === '' ? '' : ` of ${bad}`;
  throw new UserError(`${where}: the ages of moments${of} in it do not fit the model`, 'the file is damaged');
}

function isMissed(value: unknown, p: Parameter | undefined): value is Missed {
  if (typeof value === 'number') return Number.isSafeInteger(value);
  if (!p || !isRecord(value)) return false;
  const { axis, parts } = value;
  return (
    typeof axis === 'number' &&
    Array.isArray(parts) &&
    parts.length === p.shape[axis] &&
    parts.every(Number.isSafeInteger)
  );
}

/** Names of moments in a checkpoint that belong to an optimiser of another kind. */
export function foreignMoments(optimizer: Optimizer | undefined, named: Named, names: Iterable<string>): Set<string> {
  const own = optimizer?.moments;
  return new Set(
    own === undefined
      ? []
      : [...names].filter((name) => {
          const of = momentOf(name);
          return of !== null && named.parameters.has(of.parameter) && !own.includes(of.moment);
        }),
  );
}

/** The resuming session: its optimiser and groups, and the seed in its options. */
export interface Resuming {
  readonly optimizer?: Optimizer | undefined;
  readonly updating: UpdatingState;
  readonly seed?: number | undefined;
  readonly precision?: string | undefined;
}

/** A line each for another seed, optimiser, settings or groups. foreign: number of states that are ignored. */
export function differences(
  { optimizer, updating, seed, precision = 'float32' }: Resuming,
  meta: CheckpointMeta,
  foreign: number,
): string[] {
  const lines: string[] = [];
  if (seed !== undefined && seed !== meta.seed) {
    lines.push(`the session continues with the checkpoint's seed ${meta.seed}, not with ${seed}`);
  }
  const { precision: trainedWith = 'float32' } = meta;
  if (precision !== trainedWith) {
    lines.push(`the checkpoint was trained with precision ${trainedWith}, and continues with ${precision}`);
  }
  if (!optimizer || !isRecord(meta.optimizer) || meta.step === 0) return lines;
  const before = meta.optimizer,
    now: Settings = { name: optimizer.name, ...optimizer.settings };
  if (before['name'] !== undefined && before['name'] !== now['name']) {
    const left = foreign > 0 ? `; ${foreign} of its states are ignored` : '';
    const names = `the checkpoint was trained with ${show(before['name'])}, and continues with ${show(now['name'])}`;
    return [...lines, `${names}, whose moments start from 0${left}`];
  }
  const differ = Object.keys(now).filter((key) => Object.hasOwn(before, key) && show(before[key]) !== show(now[key]));
  if (differ.length > 0) {
    const each = differ.map((key) => `${key} ${show(now[key])}, not ${show(before[key])}`);
    lines.push(`the optimizer continues with ${each.join('; ')}`);
  }
  const [was, is] = [before['groups'], updating.groups].map((groups): Settings => (isRecord(groups) ? groups : {}));
  const other = [...new Set([...Object.keys(was), ...Object.keys(is)])].filter(
    (n) => show(own(was, n)) !== show(own(is, n)),
  );
  if (other.length > 0) {
    const [name] = other,
      whom = other.length === 1 ? name : `${other.length} parameters, ${name} among them`;
    const values = `${show(own(is, name) ?? 'nothing')}, not ${show(own(was, name) ?? 'nothing')}`;
    lines.push(`the groups of the optimizer differ from the checkpoint's for ${whom}: ${values}`);
  }
  return lines;
}
