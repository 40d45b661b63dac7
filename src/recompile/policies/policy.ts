// A row of the table of policies. The functions below make the field `idle` of a row.
import type { MoE } from '../../nn/moe/moe.ts';
import type { Rule } from '../rule.ts';

export type Options = Readonly<Record<string, number>>;

export interface Policy {
  readonly make: (options?: Options) => Rule<object>;
  /** Names of its options, all numbers: what `dynamoe lab --policy NAME,option=1` takes. */
  readonly options: readonly string[];
  /** Whether it may change results. Where false, `ruleOfPolicy` makes its rule with `only: 'N'`. */
  readonly mayChangeResults: boolean;
  /** Whether `auto` has it. `auto` makes every rule with `only: 'N'`. */
  readonly auto: boolean;
  /** Whether the lab can try it: whether the loads of experts are all that it looks at. */
  readonly lab: boolean;
  /** Whether it can act where all MoE layers are ragged and dropless, which compute no empty rows. */
  readonly actsWithoutEmptyRows: boolean;
  /** Why it can never change anything in a model with these MoE layers; null where it can. */
  readonly idle: (layers: readonly MoE[]) => string | null;
}

/** The reason that holds for every policy that needs an MoE layer; null if there is one. */
export const noLayer = (layers: readonly MoE[]): string | null =>
  layers.length === 0 ? 'the model has no mixture-of-experts layer' : null;
/** `idle` of a policy that can act only if some layer fits; `otherwise` is the reason if no layer does. */
export const needs =
  (fits: (layer: MoE) => boolean, otherwise: string) =>
  (layers: readonly MoE[]): string | null =>
    noLayer(layers) ?? (layers.some(fits) ? null : otherwise);
