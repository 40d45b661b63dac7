// Tests errors of commands. Wrong commands: exit code 2, one line that says what is wrong, and a hint. Failures: exit
// code 1. No error prints a stack.
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { CommanderError } from 'commander';
import { serveOwnImports } from '../../src/cli/own-imports.ts';
import { programFor } from '../../src/cli/program.ts';
import { configure } from '../../src/train/configure.ts';
import { OVERRIDES } from '../../src/train/overrides.ts';
import { ConfigError } from '../../src/train/config-error.ts';
import { temporaryFolder } from '../io/folder.ts';
import { command, writeText } from './command.ts';

async function refused(code: number, pattern: RegExp, ...args: readonly string[]): Promise<void> {
  const ended = await command(...args),
    stderr = ended.stderr.replace(/^dynamoe: no C compiler found: .*\n/, '');
  assert.equal(ended.code, code, `${args.join(' ')}: ${ended.stderr}`);
  assert.match(stderr, pattern);
  assert.match(stderr, /^dynamoe: .*\n(\(.*\)\n)?\s*hint: .*\n$/, 'one line and a hint');
  assert.equal(ended.stdout, '');
}

test('unknown commands and flags, and values out of range', async () => {
  await refused(2, /unknown command 'trian'/, 'trian');
  await refused(2, /unknown option '--step'/, 'train', '--step', '5');
  await refused(2, /'abc' is invalid.*whole number/, 'train', '--data', 'x', '--steps', 'abc');
  await refused(2, /'0' is invalid/, 'train', '--data', 'x', '--threads', '0');
  await refused(2, /nowhere.*choices|nowhere.*Allowed/i, 'train', '--data', 'x', '--device', 'nowhere');
  await refused(2, /no data/, 'train');
  await refused(2, /--resume needs --out/, 'train', '--resume');
  await refused(2, /too many arguments|expected/, 'generate', 'a', 'b');
  await refused(2, /missing required argument/, 'eval');
  await refused(2, /topK 9 is more than the 8 experts/, 'train', '--data', 'x', '--top-k', '9');
  await refused(2, /64 heads|into 7 heads/, 'train', '--data', 'x', '--heads', '7');
  await refused(
    2,
    /option '--recompile <names>' argument 'foo' is invalid/,
    'train',
    '--data',
    'x',
    '--recompile',
    'foo',
  );
  await refused(2, /--budget.*\n.*dynamoe bench memory --help/, 'bench', 'memory');
});

test("the list of commands shows the arguments that each command's file declares", async () => {
  const { commands } = await programFor([]);
  assert.ok(commands.length > 7);
  for (const { name, usage } of commands.map((c) => ({ name: c.name(), usage: c.usage() }))) {
    const loaded = (await programFor([name])).commands.find((c) => c.name() === name);
    assert.ok(loaded, name);
    const declared = [...loaded.options, ...loaded.commands, ...loaded.registeredArguments];
    assert.ok(declared.length > 0, `${name} is loaded`);
    assert.equal(usage, loaded.usage('').usage(), name); // '': as its arguments, flags and subcommands say
  }
});

test('help loads the file of no command', async () => {
  const { stdout } = await command('--help');
  assert.match(stdout, /\n {2}train \[options\] \[config\] +train a model\n/);
});

test("every flag of train is in the tables of overrides.ts, or is the command's own", async () => {
  const train = (await programFor(['train'])).commands.find((c) => c.name() === 'train');
  const own = ['auth', 'dash', 'json', 'out', 'resume', 'tensorboard', 'trace'];
  const names = train?.options.map((o) => o.attributeName()) ?? [];
  assert.deepEqual(
    names.sort(),
    [...OVERRIDES, ...own].sort(),
    'a name is missing in src/train/overrides.ts, or an option',
  );
});

test('errors in config files name the file and the key', async (t) => {
  const folder = await temporaryFolder(t);
  const file = async (name: string, content: string): Promise<string> => {
    await writeFile(join(folder, name), content);
    return join(folder, name);
  };
  await refused(
    2,
    /a\.json: unknown key model\.moe\.expert\n/,
    'train',
    await file('a.json', '{"model":{"moe":{"expert":8}}}'),
    '--data',
    'x',
  );
  await refused(2, /unknown key stpes/, 'train', await file('b.json', '{"stpes":8}'), '--data', 'x');
  await refused(2, /c\.json: batch/, 'train', await file('c.json', '{"batch":"12"}'), '--data', 'x');
  await refused(2, /d\.json is not JSON/, 'train', await file('d.json', '{batch:12}'), '--data', 'x');
  await refused(2, /no such file/, 'train', join(folder, 'none.json'), '--data', 'x');
  await refused(2, /cannot read the config .*: it is a folder\n/, 'train', folder, '--data', 'x');
  await refused(2, /has no default export/, 'train', await file('e.ts', 'export const a: number = 1;'), '--data', 'x');
  await refused(2, /f\.ts: unknown key lr/, 'train', await file('f.ts', 'export default { lr: 1 };'), '--data', 'x');
  await refused(
    2,
    /g\.ts: nothing works/,
    'train',
    await file('g.ts', 'throw new Error("nothing works");'),
    '--data',
    'x',
  );
});

test('missing and unusable data and checkpoints are failures', async (t) => {
  const folder = await temporaryFolder(t),
    text = await writeText(folder, 40);
  await refused(1, /does not exist/, 'train', '--data', join(folder, 'none'));
  await refused(1, /too little text/, 'train', '--data', text);
  await refused(1, /no such file/, 'eval', join(folder, 'none'), '--data', text);
  await refused(1, /not a valid safetensors file/, 'generate', text);
  await refused(
    1,
    /cannot write .*none.*: no such file or folder/,
    'train',
    '--data',
    text,
    '--trace',
    join(folder, 'none', 'loads.jsonl'),
  );
  await refused(
    1,
    /cannot read .*none\.jsonl: no such file/,
    'lab',
    join(folder, 'none.jsonl'),
    '--policy',
    'adaptCapacity',
  );
});

test('--version and --help', async () => {
  assert.match((await command('--version')).stdout, /^\d+\.\d+\.\d+\n$/);
  for (const args of [['--help'], ['train', '--help'], ['bench', 'gemm', '--help']]) {
    const { code, stdout } = await command(...args);
    assert.equal(code, 0);
    assert.match(stdout, /^Usage: dynamoe/);
  }
});

test('a flag that has no effect with the other flags is refused, with the reason', async (t) => {
  serveOwnImports();
  const folder = await temporaryFolder(t),
    text = await writeText(folder),
    json = join(folder, 'small.json'),
    code = join(folder, 'small.ts'),
    trace = join(folder, 'trace.jsonl');
  await writeFile(json, '{ "steps": 3, "model": { "layers": 1 } }');
  await writeFile(code, 'export default { steps: 3, model: { layers: 1 } };');
  const layer = { path: 'moe', experts: 2, k: 1, capacity: 'dropless', overflow: 'drop', dispatch: 'ragged' };
  const head = { event: 'trace', version: 1, layers: [{ ...layer, dModel: 4, hidden: 4 }] };
  await writeFile(trace, `${JSON.stringify(head)}\n{"step":1,"load":[[3,1]]}\n`);
  const own = join(folder, 'own.ts');
  await writeFile(
    own,
    "import { arrays, hostTensor, nn } from 'dynamoe';\nexport default { model: new nn.Linear(1, 2), data: " +
      "arrays({ x: hostTensor('float32', [2, 1], [1, 2]), y: hostTensor('int32', [2], [0, 1]) }), steps: 1 };",
  );
  const cases: readonly (readonly [RegExp, ...string[]])[] = [
    [/--no-auth has no effect here/, 'train', '--data', text, '--no-auth'],
    [/--no-auth has no effect here/, 'start', '--no-dash', '--no-auth'],
    [/small\.json is a config, but after --data it is taken as text/, 'train', '--data', text, json],
    [/small\.ts is a config/, 'train', '--data', text, code],
    [/small\.json is a config/, 'inspect', '--data', json],
    [/small\.json is a config/, 'start', '--data', text, json],
    [/missing required argument 'checkpoint'\n.*put it before --data/, 'eval', '--data', text, 'run'],
    [/--out needs a value, and --json is a flag/, 'train', '--out', '--json'],
    [/--data needs a value, and --steps is a flag/, 'train', '--data', '--steps', '3'],
    [/argument '_' is invalid/, 'train', '--data', text, '--seed', '_'],
    [/--top-k: dense layers/, 'train', '--data', text, '--experts', '0', '--top-k', '1'],
    [/--threads has no effect here: the reference/, 'train', '--data', text, '--threads', '2', '--device', 'reference'],
    [
      /recompile adaptCapacity has no effect here: no layer has a capacity/,
      'train',
      '--data',
      text,
      '--recompile',
      'adaptCapacity',
    ],
    [
      /recompile sparsify has no effect here: the model has no mixture/,
      'train',
      '--data',
      text,
      '--recompile',
      'sparsify',
      '--experts',
      '0',
    ],
    [
      /recompile sparsify has no effect here: every token goes to one expert/,
      'train',
      '--data',
      text,
      '--recompile',
      'sparsify',
      '--top-k',
      '1',
    ],
    [/no loads to trace/, 'train', '--data', text, '--experts', '0', '--trace', join(folder, 'loads')],
    [/--data: the config file brings its own dataset/, 'train', own, '--data', text],
    [/--layers: the config file brings its own model/, 'train', own, '--layers', '2'],
    [/--top-k has no effect here: at temperature 0/, 'generate', 'run', '--temperature', '0', '--top-k', '3'],
    [/--top-p has no effect here: at temperature 0/, 'generate', 'run', '--temperature', '0', '--top-p', '0.5'],
    [/expected a number of at most 1/, 'generate', 'run', '--top-p', '1.5'],
    [/expected a number above 0/, 'generate', 'run', '--repetition-penalty', '0'],
    [/--seed has no effect here: at temperature 0/, 'generate', 'run', '--temperature', '0', '--seed', '3'],
    [/--no-echo has no effect here/, 'generate', 'run', '--no-echo'],
    [/unknown option '--lr'/, 'inspect', '--lr', '1'],
    [/--data has no effect here/, 'inspect', '--data', text],
    [/--policy has no effect here: --table/, 'lab', '--table', '--policy', 'sparsify'],
    [/--json has no effect here/, 'lab', '--generate', 'hot', '--json'],
    [/--price has no effect here/, 'lab', '--generate', 'hot', '--price', '2'],
    [/--out has no effect here/, 'lab', '--generate', 'hot', '--policy', 'sparsify', '--out', 'x'],
    [
      /--seed has no effect here: the loads are those of the trace/,
      'lab',
      trace,
      '--policy',
      'sparsify',
      '--seed',
      '2',
    ],
    [/--overflow has no effect here/, 'lab', trace, '--policy', 'sparsify', '--overflow', 'spill'],
    [/lab --table generates its loads/, 'lab', trace, '--table'],
    [/--skew has no effect here: a dense network/, 'bench', 'layer', '--experts', '0', '--skew', '1'],
    [/--overflow has no effect here/, 'bench', 'layer', '--overflow', 'spill'],
    [/--eager has no effect here/, 'bench', 'layer', '--pass', 'forward', '--eager'],
    [/--drift has no effect here/, 'bench', 'recompile', '--skew', '0', '--drift', '3'],
    [/--cold has no effect here/, 'bench', 'compile', '--device', 'wasm', '--cold'],
  ];
  for (const [pattern, ...args] of cases) {
    const program = await programFor(args);
    let output = ''; // a message of commander
    for (const c of [program, ...program.commands])
      c.configureOutput({
        ...c.configureOutput(),
        writeErr: (text) => {
          output += text;
        },
      });
    const error = await program.parseAsync(args, { from: 'user' }).then(
      () => null,
      (e: unknown) => e,
    );
    assert.ok(error instanceof ConfigError || error instanceof CommanderError, `${args.join(' ')}: ${String(error)}`);
    assert.match(`${output}${error.message}`, pattern, args.join(' '));
  }
});

test('a setting without effect is refused; for a misspelt key, the error names the closest key', async (t) => {
  const folder = await temporaryFolder(t),
    file = join(folder, 'c.json');
  for (const [pattern, config] of [
    [/model\.hidden has no effect here/, { model: { hidden: 8 } }],
    [/model\.moe\.overflow has no effect here: the layer is dropless/, { model: { moe: { overflow: 'spill' } } }],
    [
      /model\.moe\.priority has no effect here: the layer is dropless/,
      { model: { moe: { priority: 'probs', capacity: 'dropless' } } },
    ],
    [
      /model\.moe\.priority has no effect here: choices beyond/,
      { model: { moe: { priority: 'probs', capacity: 1, overflow: 'spill' } } },
    ],
    [/threads has no effect here/, { device: 'reference', threads: 2 }],
    [/optimizer\.weightDecay/, { optimizer: { name: 'adam', weightDecay: 0.1 } }],
    [/unknown key model\.moe\.expert\n.*did you mean "experts"\?/, { model: { moe: { expert: 8 } } }],
    [/unknown key evalevery\n.*did you mean "evalEvery"\?/, { evalevery: 8 }],
    [/unknown key optimizer\.weight_decay\n.*did you mean "weightDecay"\?/, { optimizer: { weight_decay: 8 } }],
    [/c\.json: optim\.adamW: betas/, { optimizer: { betas: [0.9, 1] } }],
    [/c\.json: model\.dropout/, { model: { dropout: 1 } }],
  ] as const) {
    await writeFile(file, JSON.stringify(config));
    await assert.rejects(
      configure(file, { data: ['x'] }),
      (error: unknown) => error instanceof ConfigError && pattern.test(error.message),
    );
  }
});

test('a config outside the checkout imports every part of the package', async (t) => {
  const folder = await temporaryFolder(t),
    file = join(folder, 'c.ts'),
    { exports } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8')) as {
      exports: object;
    };
  const names = Object.keys(exports)
    .filter((path) => !path.endsWith('.json'))
    .map((path) => `dynamoe${path.slice(1)}`);
  assert.ok(names.includes('dynamoe/recompile') && names.includes('dynamoe/log'));
  await writeFile(
    file,
    `${names.map((name, i) => `import * as m${i} from '${name}';`).join('\n')}
console.error(JSON.stringify([${names.map((_, i) => `Object.keys(m${i}).length > 0`).join(', ')}]));
export default { steps: 0 };`,
  );
  const { code, stderr } = await command('train', file, '--data', 'x');
  assert.equal(code, 2);
  assert.ok(stderr.startsWith(`${JSON.stringify(names.map(() => true))}\n`), stderr);
});
