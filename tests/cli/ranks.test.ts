// dynamoe over the ranks that mpirun starts: the bits and files of one process, stops, kills and resumes, errors of one
// rank.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, before, test } from 'node:test';
import { missing, openMpi, runRanks, startRanks, type Ended, type Running } from '../support/mpi.ts';
import { noCompiler } from '../support/toy.ts';
import { command, eventsOf, lossesOf, TINY, writeText } from './command.ts';

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url)),
  skip = noCompiler || missing(openMpi);

const ranks = (n: number, ...words: readonly string[]): Promise<Ended> => runRanks(openMpi, n, MAIN, words);

let folder = '',
  data = '';
/** The flags of every run; without rules, because they decide by times. */
const flags = (steps = 300): string[] => [
  'train',
  ...TINY,
  ...['--data', data, '--steps', `${steps}`, '--eval-every', '100', '--save-every', '20', '--seed', '7'],
  ...['--recompile', 'off', '--json'],
];
/** The folder and the output of a run of one process. */
let alone: { readonly out: string; readonly stdout: string };

if (skip === false) {
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'dynamoe-test-'));
    data = await writeText(folder);
    const out = join(folder, 'alone'),
      { stdout, code, stderr } = await command(...flags(), '--out', out);
    assert.equal(code, 0, stderr);
    alone = { out, stdout };
  });
  after(() => rm(folder, { recursive: true, force: true }));
}

const last = 'step-00000300.safetensors';
/** The metadata and the tensors of a checkpoint. A resumed run writes its settings in another order. */
async function contentOf(file: string): Promise<{ readonly meta: unknown; readonly tensors: Buffer }> {
  const bytes = await readFile(file),
    start = 8 + Number(bytes.readBigUInt64LE(0)),
    { __metadata__: meta } = JSON.parse(bytes.subarray(8, start).toString()) as {
      readonly __metadata__: { readonly dynamoe: string };
    };
  return { meta: JSON.parse(meta.dynamoe), tensors: bytes.subarray(start) };
}

/** Waits until rank 0 has printed a step. */
async function step({ output, ended }: Running, n: number): Promise<void> {
  let over = false;
  void ended.then(() => {
    over = true;
  });
  while (!over && !output().includes(`"event":"step","step":${n},`))
    await new Promise((resolve) => {
      setTimeout(resolve, 2);
    });
}

/** The process of a rank, from its log: of the last time that the run was started. */
async function processOf(out: string, rank: number): Promise<number> {
  const text = await readFile(join(out, 'ranks', `rank-${rank}.log`), 'utf8');
  return Number([...text.matchAll(/, process (\d+) on/g)].at(-1)?.[1]);
}

test('2 ranks: the events, the losses and the checkpoint of one process', { skip }, async () => {
  const out = join(folder, 'two'),
    { status, stdout, stderr } = await ranks(2, ...flags(), '--out', out);
  assert.equal(status, 0, stderr);
  assert.deepEqual(lossesOf(stdout), lossesOf(alone.stdout));
  const events = eventsOf(stdout),
    kinds = (of: readonly { readonly event: string }[]): string[] => of.map(({ event }) => event);
  assert.deepEqual(kinds(events), kinds(eventsOf(alone.stdout)));
  assert.equal(events[0]['ranks'], 2);
  assert.match(String(events[0]['device']), /Open MPI [\d.]+, 2 ranks on 1 host/);
  const times = events.find(({ event }) => event === 'step')?.['ranks'] as Record<string, number[]>;
  assert.deepEqual(Object.keys(times), ['ms', 'waited_ms', 'sent']);
  for (const numbers of Object.values(times)) assert.equal(numbers.length, 2);
  assert.ok(times['sent'].every((bytes) => bytes > 0));
  assert.ok((await readFile(join(out, last))).equals(await readFile(join(alone.out, last))), 'the last checkpoint');
  assert.deepEqual((await readdir(join(out, 'ranks'))).sort(), ['rank-0.log', 'rank-1.log']);
  assert.match(await readFile(join(out, 'ranks', 'rank-1.log'), 'utf8'), /done at step 300; \d+ bytes sent/);

  const measured = await ranks(2, 'eval', out, '--json'),
    [found] = eventsOf(measured.stdout);
  assert.equal(measured.status, 0, measured.stderr);
  assert.equal(eventsOf(measured.stdout).length, 1);
  assert.equal(found['val_loss'], eventsOf(alone.stdout).at(-1)?.['val_loss']);
});

test(
  'a run that one rank is asked to stop, and one of whose ranks is killed, ends as one process',
  { skip },
  async () => {
    const out = join(folder, 'stopped'),
      first = startRanks(openMpi, 2, MAIN, [...flags(), '--out', out]);
    await step(first, 30);
    process.kill(await processOf(out, 1), 'SIGTERM');
    const stopped = await first.ended,
      end = eventsOf(stopped.stdout).at(-1);
    assert.equal(stopped.status, 143, stopped.stderr);
    assert.equal(end?.event, 'stopped');
    assert.match(stopped.stderr, /stopped and saved; to continue/);
    assert.ok(existsSync(String(end['checkpoint'])));

    const second = startRanks(openMpi, 4, MAIN, ['train', '--resume', '--out', out, '--json']);
    await step(second, end.step + 25);
    process.kill(await processOf(out, 2), 'SIGKILL');
    assert.notEqual((await second.ended).status, 0);

    const third = await command('train', '--resume', '--out', out, '--json');
    assert.equal(third.code, 0, third.stderr);
    const from = eventsOf(third.stdout)[0]['resumed_from'] as number;
    assert.ok(from >= end.step && from < 300, `resumed from ${from}`);
    assert.deepEqual(await contentOf(join(out, last)), await contentOf(join(alone.out, last)));
  },
);

test('an error that only one rank has ends all of them with one line', { skip }, async () => {
  const config = join(folder, 'throws.ts');
  await writeFile(
    config,
    `import { nn, optim } from 'dynamoe';
const rank = process.env.OMPI_COMM_WORLD_RANK;
const lr = (step: number): number => {
  if (rank === '1' && step === 20) throw new Error('the rate of rank 1 is unknown');
  return 0.01;
};
export default {
  model: new nn.TransformerLM({
    vocab: 256, dModel: 16, layers: 1, heads: 2, context: 16, moe: { experts: 4, hidden: 16, topK: 2 },
  }),
  optimizer: optim.sgd({ lr }),
  batch: 4,
  steps: 60,
};
`,
  );
  const { status, stderr } = await ranks(2, 'train', config, '--data', data, '--out', join(folder, 'throws'), '--json');
  assert.equal(status, 1, stderr);
  assert.match(
    stderr,
    /^rank 1, step 20: the learning rate of step 21 could not be computed: the rate of rank 1 is unknown/m,
  );
});

test('a full disk of rank 0 ends all ranks with its error', { skip }, async (t) => {
  const small = join(folder, 'small');
  await mkdir(small);
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=200k', 'tmpfs', small]).status !== 0) {
    t.skip('needs the right to mount');
    return;
  }
  t.after(() => spawnSync('umount', ['-l', small]));
  const { status, stderr } = await ranks(2, ...flags(40), '--out', join(small, 'run'));
  assert.equal(status, 1, stderr);
  assert.equal(stderr.match(/no space left on the device/g)?.length, 1, stderr);
});

for (const [n, words, message] of [
  [3, [], /3 ranks cannot train one model/],
  [2, ['--device', 'wasm'], /the device wasm runs in one process only, not on 2 ranks/],
] as const)
  test(`${n} ranks ${words.join(' ')}: refused by name, once`, { skip }, async () => {
    const { status, stderr } = await ranks(n, ...flags(), ...words, '--out', join(folder, `refused-${n}`));
    assert.notEqual(status, 0);
    assert.equal(stderr.match(new RegExp(message, 'g'))?.length, 1, stderr);
  });
