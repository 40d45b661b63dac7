// Wrong commands: exit code 2, one line that says what is wrong, and a hint; failures: exit code 1. Never a stack.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { temporaryFolder } from '../io/folder.ts';
import { command, writeText } from './command.ts';

async function refused(code: number, pattern: RegExp, ...args: readonly string[]): Promise<void> {
  const ended = await command(...args), stderr = ended.stderr.replace(/^dynamoe: no C compiler found: .*\n/, '');
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
  await refused(2, /option '--recompile <names>' argument 'foo' is invalid/, 'train', '--data', 'x', '--recompile', 'foo');
  await refused(2, /--budget.*\n.*dynamoe bench memory --help/, 'bench', 'memory');
});

test('config files: what they may not say, and where', async (t) => {
  const folder = await temporaryFolder(t);
  const file = async (name: string, content: string): Promise<string> => {
    await writeFile(join(folder, name), content);
    return join(folder, name);
  };
  await refused(2, /a\.json: unknown key model\.moe\.expert\n/, 'train', await file('a.json', '{"model":{"moe":{"expert":8}}}'), '--data', 'x');
  await refused(2, /unknown key stpes/, 'train', await file('b.json', '{"stpes":8}'), '--data', 'x');
  await refused(2, /c\.json: batch/, 'train', await file('c.json', '{"batch":"12"}'), '--data', 'x');
  await refused(2, /d\.json is not JSON/, 'train', await file('d.json', '{batch:12}'), '--data', 'x');
  await refused(2, /no such file/, 'train', join(folder, 'none.json'), '--data', 'x');
  await refused(2, /cannot read the config .*: it is a folder\n/, 'train', folder, '--data', 'x');
  await refused(2, /has no default export/, 'train', await file('e.ts', 'export const a: number = 1;'), '--data', 'x');
  await refused(2, /f\.ts: unknown key lr/, 'train', await file('f.ts', 'export default { lr: 1 };'), '--data', 'x');
  await refused(2, /g\.ts: nothing works/, 'train', await file('g.ts', 'throw new Error("nothing works");'), '--data', 'x');
});

test('data and checkpoints that are not there or not usable are failures', async (t) => {
  const folder = await temporaryFolder(t), text = await writeText(folder, 40);
  await refused(1, /does not exist/, 'train', '--data', join(folder, 'none'));
  await refused(1, /too little text/, 'train', '--data', text);
  await refused(1, /no such file/, 'eval', join(folder, 'none'), '--data', text);
  await refused(1, /not a sound safetensors file/, 'generate', text);
  await refused(1, /cannot write .*none.*: no such file or folder/, 'train', '--data', text, '--trace', join(folder, 'none', 'loads.jsonl'));
  await refused(1, /cannot read .*none\.jsonl: no such file/, 'lab', join(folder, 'none.jsonl'), '--policy', 'adaptCapacity');
});

test('--version and --help', async () => {
  assert.match((await command('--version')).stdout, /^\d+\.\d+\.\d+\n$/);
  for (const args of [['--help'], ['train', '--help'], ['bench', 'gemm', '--help']]) {
    const { code, stdout } = await command(...args);
    assert.equal(code, 0);
    assert.match(stdout, /^Usage: dynamoe/);
  }
});
