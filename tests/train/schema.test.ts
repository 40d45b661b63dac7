// Tests the schema of configs: every setting of an MoE layer that is plain data can be set in a config.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KNOB_NAMES } from '../../src/nn/moe/knobs.ts';
import { MOE_OPTIONS, type MoEOptions } from '../../src/nn/moe/options.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { configure } from '../../src/train/configure.ts';
import { moeObject, parseConfig, type ConfigData } from '../../src/train/schema.ts';

/** Options that a config does not have, with the reason. */
const EXEMPT: Partial<Record<keyof MoEOptions, string>> = {
  dModel: 'model.dModel is the width of all layers',
  router: 'a router is an object with functions, which JSON cannot hold',
};
/** Knobs that are not options, with the reason. */
const SET_OTHERWISE: Readonly<Record<string, string>> = {
  slots: '`active` says which slots hold an expert at first; later only rules change slots',
};

type MoEConfig = NonNullable<NonNullable<ConfigData['model']>['moe']>;
/** For each option a value that differs from its default. `with`: other options that it needs. */
const VALUES: { readonly [K in keyof Required<MoEConfig>]: { value: MoEConfig[K]; with?: MoEConfig } } = {
  experts: { value: 4 },
  active: { value: 3 },
  topK: { value: 1 },
  hidden: { value: 24 },
  capacity: { value: 1.5 },
  overflow: { value: 'spill', with: { capacity: 2 } },
  priority: { value: 'probs', with: { capacity: 2 } },
  dispatch: { value: 'padded' },
  expertRows: { value: 256 },
  routing: { value: 'watched' },
  remember: { value: 1000 },
  audit: { value: 8 },
  recompute: { value: true },
  chunks: { value: 2 },
  frozen: { value: true },
  gateFrozen: { value: true },
  shared: { value: 16 },
  activation: { value: 'swiglu' },
  bias: { value: true },
  normalise: { value: false },
  balance: { value: 0.1 },
  zLoss: { value: 0.1 },
  losses: { value: { gshard: 0.1 } },
  outStd: { value: 0.1 },
};

test('a config can set every option and every knob of an MoE layer except the listed ones', () => {
  const options = Object.keys(MOE_OPTIONS),
    inConfigs = Object.keys(moeObject.shape);
  assert.deepEqual(
    inConfigs.toSorted(),
    options.filter((name) => !Object.hasOwn(EXEMPT, name)).toSorted(),
    'add the option to `moeObject` in src/train/schema.ts, or to EXEMPT with the reason why JSON has no such value',
  );
  assert.deepEqual(
    KNOB_NAMES.filter((knob) => !options.includes(knob)),
    Object.keys(SET_OTHERWISE),
  );
});

test('an MoE layer gets the options of the config', async () => {
  const base = { layers: 1, dModel: 16, heads: 2, context: 16 };
  for (const [name, { value, with: others }] of Object.entries(VALUES)) {
    const moe = { experts: 4, topK: 2, hidden: 16, ...others, [name]: value } as MoEConfig,
      { model } = (await configure(undefined, {}, { model: { ...base, moe } })).experiment;
    assert.ok(model instanceof TransformerLM);
    const layer = model.blocks[0].moe as unknown as Readonly<Record<string, unknown>>;
    if (name === 'frozen') assert.deepEqual(layer['frozen'], [true, true, true, true]);
    else if ((KNOB_NAMES as readonly string[]).includes(name)) assert.deepEqual(layer[name], value, name);
  }
});

test('unknown options of an MoE layer are refused by name', async () => {
  const refused = (moe: object, message: RegExp): Promise<void> =>
    assert.rejects(configure(undefined, {}, { model: { moe: moe } }), { name: 'ConfigError', message });
  await refused({ expertRow: 2 }, /unknown key model\.moe\.expertRow\n.*did you mean "expertRows"/);
  await refused({ expertRows: 3 }, /expertRows must be a power of 2/);
  await refused({ losses: { fairness: 1 } }, /unknown key model\.moe\.losses\.fairness\n.*balance, gshard/);
  await refused({ losses: { z: 1 }, balance: 1 }, /balance has no effect/);
  await refused({ frozen: [true] }, /frozen must be true, false, or a list of 8/);
  assert.throws(() => parseConfig({ model: { moe: { routing: 'hash' } } }), /model\.moe\.routing: .*"watched"/);
});
