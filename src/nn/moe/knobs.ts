// The knobs of an MoE layer: settings that a user or a rule may change while the model runs. One row each: what its
// value is at first, which values its setter takes, and between which settings the layer computes the same bits.
import { UserError } from '../../base/errors.ts';
import type { KnobRules, Settings } from '../../trace/knobs.ts';
import { checkCapacity, type Capacity } from './capacity.ts';
import { ExpertBank } from './experts.ts';
import { ROUTINGS, type RoutingMode } from './memory.ts';
import type { Router } from './router.ts';
import { OVERFLOWS, PRIORITIES, type Overflow, type Priority } from './routing.ts';
import { checkChoices, freshSlots, openSlots, readSlots, type Families, type SlotsValue } from './slots.ts';
import { DISPATCHES, type Dispatch, type Experts } from './strategies.ts';

/** The value of each knob. */
export interface MoEKnobs {
  topK: number;
  capacity: Capacity;
  overflow: Overflow;
  priority: Priority;
  dispatch: Dispatch;
  frozen: readonly boolean[];
  slots: SlotsValue;
  expertRows: number;
  recompute: boolean;
  chunks: number;
  routing: RoutingMode;
  remember: number;
  audit: number;
  gateFrozen: boolean;
}

/** What the checks ask about the layer. */
export interface KnobOwner {
  /** How many experts, or slots for them, the layer has. */
  readonly count: number;
  readonly router: Router;
  readonly experts: Experts;
  readonly topK: number;
  readonly families: Families;
}

interface Knob<T> {
  readonly initial: (count: number) => T;
  /** Gives the value to keep. Throws UserError for a value that the layer cannot have. */
  readonly check: (value: T, layer: KnobOwner) => T;
  /** Whether results have the same bits with the settings `to` as with `from`, which differ in this knob. */
  readonly sameBits: KnobRules[string];
}

/** Whether each row is computed on its own, with every sum in token order, wherever the row lies in memory. */
export const byRows = ({ dispatch }: Settings): boolean => dispatch === 'ragged' || dispatch === 'padded';
/** Whether every choice is computed, the choices of an expert in token order: nothing is dropped. */
const complete = (s: Settings): boolean =>
  s['capacity'] === 'dropless' || (s['overflow'] === 'spill' && s['priority'] === 'position');
export const alike = (from: Settings, to: Settings, ...knobs: readonly string[]): boolean =>
  knobs.every((k) => JSON.stringify(from[k]) === JSON.stringify(to[k]));

/** Whether experts choose tokens: then capacity says how many tokens each expert takes, and nothing overflows. */
const expertsChoose = (layer: object): boolean =>
  (layer as { readonly router?: { readonly expertsChoose?: boolean } }).router?.expertsChoose === true;

const sameRows = (from: Settings, to: Settings, layer: object): boolean =>
  alike(from, to, 'topK', 'frozen', 'slots') &&
  byRows(from) &&
  byRows(to) &&
  (expertsChoose(layer)
    ? alike(from, to, 'capacity')
    : (complete(from) && complete(to)) || alike(from, to, 'capacity', 'overflow', 'priority'));

/**
 * Whether no choices are remembered before or after. What is remembered, and since when, decides what the run computes
 * later, so a change of it may never depend on a clock.
 */
const nothingRemembered = (from: Settings, to: Settings): boolean =>
  from['routing'] === 'live' && to['routing'] === 'live';

/** Throws UserError for a name that is not on the list. */
export const among = <T>(what: string, value: T, list: readonly T[]): T => {
  if (!list.includes(value)) throw new UserError(`MoE: no ${what} named ${String(value)}`, `one of ${list.join(', ')}`);
  return value;
};

const atLeastOne = (what: string, n: number): number => {
  if (!Number.isInteger(n) || n < 1 || n >= 2 ** 31)
    throw new UserError(`MoE: ${what} must be a whole number of at least 1, got ${n}`);
  return n;
};

function checkTopK(k: number, { count, families }: KnobOwner): number {
  if (!Number.isInteger(k) || k < 1 || k > count)
    throw new UserError(`MoE: topK must be from 1 to the number of experts (${count}), got ${k}`);
  checkChoices(k, families);
  return k;
}

function checkExpertRows(rows: number): number {
  if (rows !== 0 && !(Number.isInteger(rows) && Number.isInteger(Math.log2(rows))))
    throw new UserError(
      `MoE: expertRows must be a power of 2, or 0 for not known, got ${rows}`,
      'few different values let compiled plans be used again',
    );
  return rows;
}

function checkRouting(routing: RoutingMode, { router }: KnobOwner): RoutingMode {
  if (among('routing', routing, ROUTINGS) !== 'live' && !router.remembers)
    throw new UserError(
      `MoE: choices of a ${router.constructor.name} cannot be remembered: they depend on more than the token, ` +
        `or the router does not declare \`remembers\``,
      "routing 'live'",
    );
  return routing;
}

function checkChunks(chunks: number, { experts }: KnobOwner): number {
  if (!Number.isInteger(chunks) || chunks < 1)
    throw new UserError(`MoE: chunks must be a whole number of at least 1, got ${chunks}`);
  if (chunks > 1 && !(experts instanceof ExpertBank))
    throw new UserError(
      'MoE: experts that are modules are not computed in chunks',
      'recompute: true keeps none of their hidden values',
    );
  return chunks;
}

function checkFrozen(frozen: unknown, { count }: KnobOwner): readonly boolean[] {
  const list: unknown = typeof frozen === 'boolean' ? new Array<boolean>(count).fill(frozen) : frozen;
  if (!Array.isArray(list) || list.length !== count || list.some((f) => typeof f !== 'boolean'))
    throw new UserError(
      `MoE: frozen must be true, false, or a list of ${count} of them, got ${JSON.stringify(frozen)}`,
    );
  return Object.freeze([...(list as boolean[])]);
}

function checkGateFrozen(frozen: boolean): boolean {
  if (typeof frozen !== 'boolean') throw new UserError(`MoE: gateFrozen must be true or false, got ${String(frozen)}`);
  return frozen;
}

function checkSlots(slots: SlotsValue, { count, router, topK }: KnobOwner): SlotsValue {
  const { families } = readSlots(slots, count);
  if (openSlots(families) && !router.expertAxes)
    throw new UserError(
      `MoE: with a ${router.constructor.name} experts cannot be pruned, merged or split`,
      'TopKRouter and SigmoidRouter can, without groups',
    );
  checkChoices(topK, families);
  return Object.freeze([...slots]);
}

/** In the order in which checkpoints and error messages list them. */
export const KNOBS: { readonly [K in keyof MoEKnobs]: Knob<MoEKnobs[K]> } = {
  topK: { initial: () => 1, check: checkTopK, sameBits: sameRows },
  capacity: { initial: () => 'dropless', check: (c, { count }) => checkCapacity(c, count), sameBits: sameRows },
  overflow: { initial: () => 'drop', check: (o) => among('overflow', o, OVERFLOWS), sameBits: sameRows },
  priority: { initial: () => 'position', check: (p) => among('priority', p, PRIORITIES), sameBits: sameRows },
  dispatch: { initial: () => 'ragged', check: (d) => among('dispatch', d, DISPATCHES), sameBits: sameRows },
  frozen: {
    initial: (count) => Object.freeze(new Array<boolean>(count).fill(false)),
    check: checkFrozen,
    sameBits: sameRows,
  },
  slots: { initial: (count) => Object.freeze(freshSlots(count)), check: checkSlots, sameBits: sameRows },
  expertRows: { initial: () => 0, check: checkExpertRows, sameBits: () => true },
  recompute: { initial: () => false, check: (r) => among('recompute', r, [false, true]), sameBits: () => true },
  chunks: { initial: () => 1, check: checkChunks, sameBits: () => true },
  routing: { initial: () => 'live', check: checkRouting, sameBits: nothingRemembered },
  remember: { initial: () => 65_536, check: (n) => atLeastOne('remember', n), sameBits: nothingRemembered },
  audit: { initial: () => 16, check: (n) => atLeastOne('audit', n), sameBits: nothingRemembered },
  gateFrozen: { initial: () => false, check: checkGateFrozen, sameBits: () => false },
};
export const KNOB_NAMES = Object.keys(KNOBS) as (keyof MoEKnobs)[];

export const MOE_KNOBS: KnobRules = Object.fromEntries(KNOB_NAMES.map((knob) => [knob, KNOBS[knob].sameBits]));

export const initialKnobs = (count: number): MoEKnobs =>
  Object.fromEntries(KNOB_NAMES.map((knob) => [knob, KNOBS[knob].initial(count)])) as unknown as MoEKnobs;

/** The value to keep for a knob. Throws UserError for a value that the layer cannot have. */
export const checkedKnob = <K extends keyof MoEKnobs>(knob: K, value: MoEKnobs[K], layer: KnobOwner): MoEKnobs[K] =>
  (KNOBS[knob] as Knob<MoEKnobs[K]>).check(value, layer);
