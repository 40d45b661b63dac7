// Whole runs of the command line over ranks: losses, norms, loads, decisions and the checkpoint are those of one
// process. Too long for every change: with DYNAMOE_FULL only.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, before, test } from 'node:test';
import { missing, openMpi, runRanks } from '../support/mpi.ts';
import { noCompiler } from '../support/toy.ts';
import { eventsOf, writeText } from '../cli/command.ts';

const path = (name: string): string => fileURLToPath(new URL(`../../${name}`, import.meta.url)),
  MAIN = path('src/cli/main.ts'),
  skip = process.env['DYNAMOE_FULL'] === undefined ? 'long: npm run ci:full' : noCompiler || missing(openMpi);

/** A model whose experts have too little room: many rows are computed in rounds. */
const SPILLS = {
  model: {
    layers: 2,
    dModel: 64,
    heads: 2,
    moe: { experts: 8, topK: 2, hidden: 96, capacity: 0.6, overflow: 'spill' },
  },
};
const RUNS: Readonly<Record<string, readonly string[]>> = {
  recompile: [path('examples/recompile.json'), '--steps', '120', '--recompile', 'adaptCapacity'],
  default: ['--steps', '10', '--recompile', 'off'],
  spill: ['spill.json', '--steps', '30', '--recompile', 'off'],
  classifier: [path('tests/ranks/classifier.ts'), '--recompile', 'adaptCapacity'],
};

let folder = '',
  data = '';
if (skip === false) {
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'dynamoe-test-'));
    data = await writeText(folder, 60_000);
    await writeFile(join(folder, 'spill.json'), JSON.stringify(SPILLS));
  });
  after(() => rm(folder, { recursive: true, force: true }));
}

interface Outcome {
  readonly told: unknown[];
  readonly file: Buffer;
  /** Bytes of the states of rank 0: parameters and moments. */
  readonly states: number;
}

/**
 * What must not depend on the number of ranks, and the bytes of states. When a decision takes effect depends on how
 * long it is prepared.
 */
async function outcome(name: string, ranks: number): Promise<Outcome> {
  const out = join(folder, `${name}-${ranks}`),
    words = RUNS[name].map((word) => (word === 'spill.json' ? join(folder, word) : word)),
    own = name === 'classifier' ? [] : ['--data', data, '--batch', '16'],
    flags = ['--device', 'native', ...own, '--eval-every', '0', '--seed', '3', '--json'],
    { status, stdout, stderr } = await runRanks(openMpi, ranks, MAIN, ['train', ...words, ...flags, '--out', out]);
  assert.equal(status, 0, stderr);
  const events = eventsOf(stdout),
    told = events.flatMap((e): unknown[] => {
      if (e.event === 'step') return [[e['step'], e['loss'], e['grad_norm'], e['aux'], e['load']]];
      return e.event === 'recompile' ? [[e['step'], e['rule'], e['class'], e['changes']]] : [];
    });
  const { states } = events.find((e) => e.event === 'plan')?.['bytes'] as { readonly states: number };
  return { told, file: await readFile(String(events.at(-1)?.['checkpoint'])), states };
}

for (const name of Object.keys(RUNS))
  test(`${name}: ranks run as one process does`, { skip }, async () => {
    const one = await outcome(name, 1);
    assert.ok(one.told.length >= 10);
    if (RUNS[name].includes('adaptCapacity')) assert.match(JSON.stringify(one.told), /"adaptCapacity"/);
    for (const ranks of [2, 4, 8]) {
      const { told, file, states } = await outcome(name, ranks);
      assert.deepEqual(told, one.told, `${ranks} ranks`);
      assert.ok(file.equals(one.file), `the checkpoint of ${ranks} ranks`);
      // Every rank has as many experts as the others.
      if (name === 'default' && ranks === 8) assert.ok(states <= one.states / 2, `${states} of ${one.states} bytes`);
    }
  });
