// The rows of the table: the settings of the MoE layers, and the rules that change them during training.
import { policies, POLICY_NAMES, type Rule } from 'dynamoe/recompile';
import type { LayerSettings } from './models.ts';
import { handWritten, PUBLISHED, START } from './schedule.ts';

/** Facts about the workload that a row needs. */
export interface About {
  readonly experts: number;
  /** Whether the same samples come again within the run, under the same ids. */
  readonly recurs: boolean;
  readonly steps: number;
}

export interface Row {
  /** The name for --rows. */
  readonly id: string;
  readonly name: string;
  readonly layer: LayerSettings;
  /** Creates the rule for one session: a rule may have state. */
  rules(about: About): Rule<object>[];
  /** The reason why the row does not exist for this workload; null if it does. */
  absent(about: About): string | null;
}

/** The row whose time defines equal time. */
export const DEFAULT = 'ragged, dropless';
export const ADAPT = 'adaptCapacity, drop';

const here = (): null => null,
  none = (): Rule<object>[] => [];
const padded = (capacity: number): LayerSettings => ({ dispatch: 'padded', capacity });
/** Every choice is computed. */
export const DROPLESS: LayerSettings = { dispatch: 'ragged', capacity: 'dropless' };

const fixed = (alpha: number): Row => ({
  id: `alpha-${alpha}`,
  name: `alpha ${alpha}`,
  layer: padded(alpha),
  rules: none,
  absent: here,
});

/** A row with a policy, given by its name, and the settings of another row. */
const policy = (
  name: string,
  layer: LayerSettings,
  label: string,
  needs: (about: About) => string | null = here,
): Row => ({
  id: name,
  name: label,
  layer,
  rules: () => policies(name),
  absent: (about) => (POLICY_NAMES.includes(name) ? needs(about) : `this version has no policy named ${name}`),
});

export const ROWS: readonly Row[] = [
  ...[1, 1.25, 2, 4].map(fixed),
  {
    id: 'schedule',
    name: 'schedule by hand',
    layer: padded(START),
    rules: ({ steps }) => [handWritten(steps)],
    absent: ({ experts }) =>
      experts === PUBLISHED[0].factors.length ? null : `it was written for ${PUBLISHED[0].factors.length} experts`,
  },
  policy('adaptCapacity', padded(START), ADAPT),
  { id: 'default', name: DEFAULT, layer: DROPLESS, rules: none, absent: here },
  policy('cacheAssignments', DROPLESS, '+ cacheAssignments', ({ recurs }) =>
    recurs ? null : 'its samples do not come again within the run',
  ),
  policy('sparsify', DROPLESS, '+ sparsify'),
];
