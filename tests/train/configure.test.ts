// Tests settings: defaults, flags that replace those of files, parts that a config file in TypeScript builds, and what
// a resumed run keeps.
import assert from 'node:assert/strict';
import { rename, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { configure, parseSettings, resumeSettings } from '../../src/train/configure.ts';
import { ConfigError } from '../../src/train/config-error.ts';
import { temporaryFolder } from '../io/folder.ts';

test('the default settings are the documented ones', async () => {
  const {
    settings: { config },
    experiment,
  } = await configure(undefined, { data: ['a'] });
  assert.deepEqual(config.model, {
    vocab: 256,
    layers: 4,
    dModel: 128,
    heads: 4,
    context: 64,
    moe: { experts: 8, topK: 2, hidden: 256, capacity: 'dropless' },
  });
  assert.deepEqual([config.batch, config.steps, config.seed, config.data], [12, 2000, 0, [resolve('a')]]);
  assert.ok(experiment.model instanceof TransformerLM);
  const rate = experiment.optimizer.rate!;
  assert.ok(rate(0) < rate(99) && rate(99) > rate(1000) && rate(1000) > rate(1999));
});

test('flags replace settings of a file', async (t) => {
  const folder = await temporaryFolder(t),
    file = join(folder, 'c.json');
  await writeFile(
    file,
    JSON.stringify({
      steps: 10,
      model: { layers: 2, moe: { experts: 4, topK: 1 } },
      optimizer: { name: 'sgd', lr: 1, momentum: 0.5 },
    }),
  );
  const {
    settings: { config, source },
  } = await configure(file, { steps: 20, experts: 6, dFf: 32, lr: 0.5 });
  assert.equal(config.steps, 20);
  assert.deepEqual(config.model?.moe, { experts: 6, topK: 1, hidden: 32, capacity: 'dropless' });
  assert.equal(config.model.layers, 2);
  assert.deepEqual([config.optimizer.name, config.optimizer.lr, config.optimizer.momentum], ['sgd', 0.5, 0.5]);
  assert.equal(source?.path, file);
  const dense = await configure(file, { experts: 0, dFf: 99 });
  assert.deepEqual([dense.settings.config.model?.moe, dense.settings.config.model?.hidden], [null, 99]);
  await assert.rejects(configure(file, { experts: 0, topK: 2 }), ConfigError);
});

test('a .ts config may build model, data, optimizer, metrics; then flags for the model are refused', async () => {
  const file = fileURLToPath(new URL('../../examples/mnist.ts', import.meta.url));
  const {
    settings: { config },
    experiment,
  } = await configure(file, { steps: 7 });
  assert.equal(config.model, null);
  assert.equal(config.steps, 7);
  assert.deepEqual(Object.keys(experiment.metrics), ['accuracy']);
  assert.equal(experiment.optimizer.name, 'adamW');
  await assert.rejects(configure(file, { layers: 2 }), /--layers: the config file brings its own model/);
  await assert.rejects(configure(file, { lr: 2 }), /--lr/);
});

test('a resumed run keeps all settings except those that do not affect results', async () => {
  const { settings } = await configure(undefined, { data: ['a'], steps: 10 }),
    said: string[] = [];
  const stored = parseSettings(JSON.parse(JSON.stringify(settings)) as never, 'run.json');
  assert.deepEqual(stored, settings);
  const resume = (flags: object): unknown => resumeSettings(stored, flags, (line) => said.push(line));
  assert.deepEqual(resume({}), settings);
  resume({ steps: 10, data: ['a'] });
  assert.deepEqual(said, [], 'nothing is replaced');
  resume({ threads: 1, data: ['elsewhere'] });
  assert.match(said[0], /^data is \[".*elsewhere"\] from now on; before, it was \[".*a"\]$/);
  assert.equal(said[1], 'threads is 1 from now on; before, it was the default');
  resume({ steps: 20 });
  assert.match(said[2], /10 steps and goes on to 20/);
  for (const flags of [{ batch: 3 }, { seed: 1 }, { lr: 1 }, { layers: 1 }])
    assert.throws(() => resume(flags), ConfigError);
});

test('stored settings that are damaged or missing are refused by the name of their file', () => {
  const source = { path: 'c.json', sha256: '00' };
  const refused: [unknown, RegExp][] = [
    [null, /^run\.json holds no settings of a run.*session\.load/s],
    [1, /^run\.json: the settings: .*expected object/],
    [[], /^run\.json: the settings: /],
    [{ config: 1 }, /^run\.json: the config: /],
    [{ source: 'c.json' }, /^run\.json: source: /],
    [{ source: { ...source, path: '' } }, /^run\.json: source\.path: /],
    ...[null, 1, [], {}].map((path): [unknown, RegExp] => [
      { source: { ...source, path } },
      /^run\.json: source\.path: /,
    ]),
    [{ source: { path: 'c.json' } }, /^run\.json: source\.sha256: /],
  ];
  for (const [stored, message] of refused)
    assert.throws(
      () => parseSettings(stored as never, 'run.json'),
      (error) => error instanceof ConfigError && message.test(error.message),
      JSON.stringify(stored),
    );
  assert.deepEqual(parseSettings({ source }, 'run.json').source, source);
  assert.equal(parseSettings({}, 'run.json').source, null);
});

test('a JSON config may begin with a byte order mark; text that is not UTF-8 or JSON is refused', async (t) => {
  const folder = await temporaryFolder(t),
    file = join(folder, 'c.json'),
    text = '{ "steps": 7 }';
  await writeFile(file, `\uFEFF${text}`);
  assert.equal((await configure(file, {})).settings.config.steps, 7);
  const utf16 = Buffer.from(text, 'utf16le');
  for (const bytes of [
    utf16,
    Buffer.concat([Buffer.of(0xff, 0xfe), utf16]),
    Buffer.concat([Buffer.of(0xfe, 0xff), Buffer.from(utf16).swap16()]),
  ]) {
    await writeFile(file, bytes);
    await assert.rejects(
      configure(file, {}),
      (error) =>
        error instanceof ConfigError &&
        /c\.json is text in UTF-16, JSON is in UTF-8\n {2}hint: .*iconv/.test(error.message),
    );
  }
  for (const [bytes, words] of [
    [Buffer.from('{"steps": 7,}'), 'c.json is not JSON'],
    [Buffer.from(''), 'c.json is not JSON'],
    [Buffer.of(0x7b, 0xff, 0x7d), 'not text in UTF-8'],
  ] as const) {
    await writeFile(file, bytes);
    await assert.rejects(configure(file, {}), (error) => error instanceof ConfigError && error.message.includes(words));
  }
});

test('settings that an optimiser does not have, or that have no effect, are refused by name', async (t) => {
  const folder = await temporaryFolder(t),
    file = join(folder, 'c.json');
  const refused: [object, RegExp][] = [
    [{ name: 'adam', weightDecay: 0.1 }, /optimizer\.weightDecay: adam has no such setting/],
    [{ momentum: 0.9 }, /optimizer\.momentum: adamW has no such setting/],
    [{ name: 'sgd', betas: [0.9, 0.99] }, /optimizer\.betas: sgd/],
    [{ name: 'sgd', eps: 1e-8 }, /optimizer\.eps/],
    [{ name: 'lion', momentum: 0.9 }, /optimizer\.momentum: lion has no such setting/],
    [{ name: 'sgd', nesterov: true }, /nesterov has no effect without momentum/],
    [{ schedule: 'constant', floor: 0.5 }, /floor has no effect/],
    [{ warmup: 11 }, /warmup takes 11 steps, more than the 10/],
    [{ groups: [{ match: 'a', wd: 1 }] }, /optimizer\.groups\.0\.wd.*may have match, role, lr, decay, frozen/s],
    [{ groups: [{ role: 'norm', lr: 1 }] }, /optimizer\.groups\.0\.role/],
  ];
  for (const [optimizer, message] of refused) {
    await writeFile(file, JSON.stringify({ steps: 10, optimizer }));
    const named = (e: unknown): boolean => e instanceof ConfigError && message.test(e.message);
    await assert.rejects(configure(file, {}), named, JSON.stringify(optimizer));
  }
  const groups = [
    { role: 'embedding', lr: 0.1, decay: 0 },
    { match: 'blocks.0', frozen: true },
  ];
  await writeFile(file, JSON.stringify({ steps: 10, optimizer: { name: 'lion', betas: [0.8, 0.9] } }));
  const { name, settings } = (await configure(file, {})).experiment.optimizer;
  assert.deepEqual([name, settings], ['lion', { beta1: 0.8, beta2: 0.9, weightDecay: 0 }]);
  await writeFile(file, JSON.stringify({ steps: 10, optimizer: { name: 'muon', nesterov: true } }));
  assert.equal((await configure(file, {})).experiment.optimizer.name, 'muon');
  await writeFile(file, JSON.stringify({ steps: 10, optimizer: { groups } }));
  assert.deepEqual((await configure(file, {})).experiment.optimizer.groups, groups);
});

test('a .ts config may bring rules, unless recompile is off; what is no rule is refused by its place', async (t) => {
  const file = join(await temporaryFolder(t), 'c.mjs'),
    rulesOf = async (rules: string, more = ''): Promise<string[]> => {
      await writeFile(file, `export default { steps: 10, rules: ${rules}, ${more} };`);
      const copy = file.replace(/c\.mjs$/, `${String(copies++)}.mjs`);
      await rename(file, copy); // Node imports a path once.
      return (await configure(copy, {})).experiment.rules.map(({ name }) => name);
    };
  let copies = 0;
  const rule = "{ name: 'mine', trigger: () => false, alter() {} }";
  assert.deepEqual(await rulesOf(`[${rule}]`), ['mine']);
  assert.deepEqual(await rulesOf(`[${rule}]`, "recompile: 'off'"), []);
  for (const [rules, message] of [
    [rule, /rules must be a list/],
    [`[${rule}, { name: 'late', alter() {} }]`, /rules\.1 has no function trigger\(run\)/],
    ["['adaptCapacity']", /rules\.0 has no function trigger\(run\)[^]*trigger\(run\) and alter\(model, run\)/],
  ] as const)
    await assert.rejects(rulesOf(rules), (e) => e instanceof ConfigError && message.test(e.message), rules);
});
