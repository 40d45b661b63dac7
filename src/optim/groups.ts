// Groups: settings of an optimiser for some of the parameters. In: the option `groups` and the trained parameters of a
// model with their roles; out: for each parameter its learning-rate multiplier, its decay, and whether it is frozen.
import { listed } from '../base/words.ts';
import { UserError } from '../base/errors.ts';
import { ROLES, type Role } from '../trace/parameter.ts';

/** Settings of a parameter; a field that is not given has the value that it would have without groups. */
export interface Group {
  /** Multiplies the learning rate, a number of at least 0; default 1. */
  readonly lr?: number | undefined;
  /**
   * A number of at least 0 replaces the optimiser's weight decay. true or false decides, instead of the role, whether
   * the optimiser's weight decay applies.
   */
  readonly decay?: number | boolean | undefined;
  /** true: the parameter and its moments are not updated, as with `parameter.frozen = true`. false has no effect: a
   * parameter that is frozen elsewhere stays frozen. */
  readonly frozen?: boolean | undefined;
}

/** A group as plain data. It applies to parameters that fit both `match` and `role`. */
export interface GroupRule extends Group {
  /** The path of a parameter, or of a module for all in it: `blocks.0`, `blocks.*.moe.experts`. `*` stands for any
   * characters. Default all. */
  readonly match?: string | undefined;
  readonly role?: Role | readonly Role[] | undefined;
}

/**
 * A function of a parameter's path (`blocks.0.moe.router.weight`) and role, called once for each trained parameter when
 * a session is compiled; later changes of what it returns do not affect that session. Or a list of rules, of which
 * later ones override earlier ones, field by field.
 */
export type Groups = ((path: string, role: Role) => Group | null | undefined) | readonly GroupRule[];

/** The settings of one parameter. decay undefined: its role decides. */
export interface ParameterSettings {
  readonly role: Role;
  readonly lr: number;
  readonly decay?: number | boolean | undefined;
  readonly frozen: boolean;
}

const FIELDS = ['lr', 'decay', 'frozen'],
  RULE_FIELDS = ['match', 'role', ...FIELDS];
const HINT = "groups: (path, role) => (role === 'embedding' ? { lr: 0.1 } : {}), or [{ role: 'embedding', lr: 0.1 }]";

const show = (value: unknown): string =>
  typeof value === 'function'
    ? 'a function'
    : typeof value === 'number'
      ? String(value)
      : (JSON.stringify(value) ?? String(value));

function checkFields(where: string, group: object, known: readonly string[]): void {
  const refuse = (what: string): never => {
    throw new UserError(`${where}: ${what}`, HINT);
  };
  for (const [key, value] of Object.entries(group) as [string, unknown][]) {
    if (!known.includes(key)) refuse(`unknown setting ${key}; there are ${known.join(', ')}`);
    if (value === undefined) continue;
    const number = typeof value === 'number' && Number.isFinite(value) && value >= 0;
    if (key === 'lr' && !number)
      refuse(`lr multiplies the learning rate and must be a number of at least 0, got ${show(value)}`);
    if (key === 'decay' && !number && typeof value !== 'boolean')
      refuse(`decay must be a number of at least 0, true or false, got ${show(value)}`);
    if (key === 'frozen' && typeof value !== 'boolean') refuse(`frozen must be true or false, got ${show(value)}`);
    if (key === 'match' && (typeof value !== 'string' || value === ''))
      refuse(`match must be the path of a parameter or a module, got ${show(value)}`);
    const unknown =
      key === 'role' ? [value].flat().find((role) => !(ROLES as readonly unknown[]).includes(role)) : undefined;
    if (unknown !== undefined) refuse(`there is no role ${show(unknown)}; there are ${ROLES.join(', ')}`);
  }
}

const isObject = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * Throws UserError for groups that are neither a function nor a list of rules, and for rules with unknown fields or
 * wrong values, or without any setting.
 */
export function checkGroups(optimizer: string, groups: unknown): void {
  if (typeof groups === 'function') return;
  if (!Array.isArray(groups))
    throw new UserError(
      `optim.${optimizer}: groups must be a function of path and role, or a list of rules, got ${show(groups)}`,
      HINT,
    );
  groups.forEach((rule: unknown, i) => {
    const where = `optim.${optimizer}: groups[${i}]`;
    if (!isObject(rule)) throw new UserError(`${where} must be an object, got ${show(rule)}`, HINT);
    checkFields(where, rule, RULE_FIELDS);
    if (!FIELDS.some((field) => (rule as Record<string, unknown>)[field] !== undefined))
      throw new UserError(`${where} sets nothing`, `give it some of ${FIELDS.join(', ')}`);
  });
}

/** Whether `path` is the path in `match`, or lies in the module that `match` names. */
function matches(match: string, path: string): boolean {
  const text = match
    .split('*')
    .map((part) => part.replace(/[\\^$.|?+()[\]{}]/g, '\\$&'))
    .join('.*');
  return new RegExp(`^${text}(\\..*)?$`).test(path);
}

const fits = ({ match, role }: GroupRule, path: string, own: Role): boolean =>
  (match === undefined || matches(match, path)) && (role === undefined || [role].flat().includes(own));

/** The fields of an optimiser that `settingsOf` reads. */
export interface Grouped {
  readonly name: string;
  readonly groups?: Groups | undefined;
  readonly decay?: number | null | undefined;
}

/**
 * The settings of each parameter, by path. `decay`: the optimiser's weight decay; null: it has none. Throws UserError
 * if a group fits no parameter, or if a setting has no effect.
 */
export function settingsOf(
  { name, groups, decay = null }: Grouped,
  parameters: Iterable<readonly [path: string, { readonly role: Role }]>,
): Map<string, ParameterSettings> {
  const all = [...parameters].map(([path, { role }]) => ({ path, role })),
    rules = typeof groups === 'function' ? [] : (groups ?? []);
  const idle = rules.findIndex((rule) => !all.some(({ path, role }) => fits(rule, path, role)));
  if (idle >= 0) {
    throw new UserError(
      `optim.${name}: groups[${idle}] (${show(rules[idle])}) fits no trained parameter of the model`,
      `there are ${shown(all.map(({ path, role }) => `${path} (${role})`))}`,
    );
  }
  const found = all.map(({ path, role }): readonly [string, ParameterSettings] => {
    const group =
      typeof groups === 'function'
        ? asked(name, groups, path, role)
        : rules
            .filter((rule) => fits(rule, path, role))
            .reduce<Group>((before, { match: _, role: __, ...own }) => ({ ...before, ...given(own) }), {});
    const { lr = 1, decay: own, frozen = false } = group;
    if (own !== undefined && own !== false && decay === null)
      throw new UserError(
        `optim.${name}: groups give ${path} a decay, and ${name} has no weight decay`,
        'adamW and sgd have one',
      );
    if (own === true && decay === 0)
      throw new UserError(
        `optim.${name}: groups let ${path} decay, and weightDecay is 0`,
        'set weightDecay, or give its decay as a number',
      );
    return [path, { role, lr, ...(own !== undefined && { decay: own }), frozen }];
  });
  if (typeof groups === 'function' && !found.some(([, s]) => hasSettings(s))) {
    throw new UserError(
      `optim.${name}: groups gives no settings for any parameter`,
      `it was asked for ${shown(all.map(({ path, role }) => `${path} (${role})`))}`,
    );
  }
  return new Map(found);
}

/** Whether groups set anything for the parameter. */
export const hasSettings = ({ lr, decay, frozen }: ParameterSettings): boolean =>
  lr !== 1 || decay !== undefined || frozen;

const given = (group: Group): Group =>
  Object.fromEntries(Object.entries(group).filter(([, value]) => value !== undefined));

const shown = (names: readonly string[]): string => (names.length === 0 ? 'none' : listed(names, 5));

function asked(
  name: string,
  groups: (path: string, role: Role) => Group | null | undefined,
  path: string,
  role: Role,
): Group {
  const where = `optim.${name}: groups(${show(path)}, ${show(role)})`,
    group: unknown = groups(path, role) ?? {};
  if (!isObject(group)) throw new UserError(`${where} must give an object or nothing, got ${show(group)}`, HINT);
  checkFields(where, group, FIELDS);
  return group;
}
