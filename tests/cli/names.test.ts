// Tests names with characters that are special in shells, URLs and globs, for folder, data, config and trace, with all
// commands from training to the page about the run.
import assert from 'node:assert/strict';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { temporaryFolder } from '../io/folder.ts';
import { command, start, writeText } from './command.ts';

const CONFIG =
  'export default { model: { layers: 1, dModel: 16, heads: 2, context: 16, moe: { experts: 4, hidden: 16 } }, ' +
  'batch: 4, device: "wasm", threads: 1 };';

for (const name of ['-a b\'c"%41#?x=1&[y]*', 'new\nline\té名前 $HOME `id`', 'x'.repeat(200)]) {
  test(
    `a name such as ${JSON.stringify(name.slice(0, 40))}: train, resume, eval, generate, lab, dash`,
    { timeout: 240_000 },
    async (t) => {
      const folder = await temporaryFolder(t),
        at = (what: string): string => join(folder, what, name);
      for (const what of ['data', 'config', 'run', 'trace']) await mkdir(join(folder, what));
      await rename(await writeText(folder), at('data'));
      const config = `${at('config')}.ts`,
        out = at('run');
      await writeFile(config, CONFIG);
      const ok = async (...args: readonly string[]): Promise<string> => {
        const { code, stdout, stderr } = await command(...args);
        assert.equal(code, 0, `${args[0]}: ${stderr}`);
        return stdout;
      };
      await ok(
        'train',
        config,
        '--data',
        at('data'),
        '--steps',
        '3',
        '--out',
        out,
        '--tensorboard',
        '--trace',
        at('trace'),
      );
      await ok('train', '--resume', '--out', out, '--steps', '5', '--trace', at('trace'));
      assert.match(await ok('eval', out), /validation loss/);
      await ok('generate', out, '--tokens', '3');
      assert.match(await ok('lab', at('trace'), '--policy', 'adaptCapacity'), /5 steps/);
      const steps = (await readFile(join(out, 'events.jsonl'), 'utf8'))
        .split('\n')
        .filter((line) => line.startsWith('{"event":"step"'));
      assert.equal(steps.length, 5);
      const dash = start('dash', out);
      while (!/http:\/\/\S+/.test(dash.output())) await wait(50);
      const url = /http:\/\/\S+/.exec(dash.output())?.[0] ?? '',
        runs = (await (await fetch(`${url}runs`)).json()) as unknown;
      assert.ok(JSON.stringify(runs).includes(JSON.stringify(name).slice(1, -1)), JSON.stringify(runs).slice(0, 300));
      dash.child.kill('SIGINT');
      await dash.ended;
    },
  );
}

test(
  'a config that Node cannot import is refused, and the error names it',
  { skip: process.platform === 'win32' && 'backslashes separate folders there' },
  async (t) => {
    const folder = await temporaryFolder(t),
      config = join(folder, 'back\\slash.ts');
    await writeFile(config, CONFIG);
    const { code, stderr } = await command('train', config, '--data', folder, '--out', join(folder, 'run'));
    assert.equal(code, 2);
    assert.match(stderr, /cannot import .*back\\slash\.ts: Node imports no file with a backslash in its path/);
  },
);
