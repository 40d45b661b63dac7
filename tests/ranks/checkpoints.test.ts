// Checkpoints over ranks are the files of one process, byte for byte, with experts in any order, and a run goes on with
// another number of ranks. So do evaluations of batches that ranks cannot divide, and texts.
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, test } from 'node:test';
import { missing, mpich, openMpi, runRanks, type Mpi } from '../support/mpi.ts';
import { noCompiler } from '../support/toy.ts';
import { CASES, filesOf, trainAll, type Started } from './checkpoint-models.ts';

const SCRIPT = fileURLToPath(new URL('checkpoint-models.ts', import.meta.url)),
  ALL = CASES.map(({ name }) => name);
const root = await mkdtemp(join(tmpdir(), 'dynamoe-ranks-'));
after(() => rm(root, { recursive: true, force: true }));

let alone: Promise<string> | undefined;
/** The folder of what one process gives. */
const oneProcess = (): Promise<string> =>
  (alone ??= (async () => {
    const folder = await mkdtemp(join(root, 'one-'));
    await trainAll({ folder, cases: ALL }, null);
    return folder;
  })());

/** Trains over ranks, and compares every file with that of one process. */
async function compared(mpi: Mpi, ranks: number, given: Omit<Started, 'folder'>): Promise<string> {
  const wanted = await oneProcess(),
    folder = await mkdtemp(join(root, `ranks-${ranks}-`)),
    { status, stderr } = await runRanks(mpi, ranks, SCRIPT, [JSON.stringify({ ...given, folder })]);
  assert.equal(status, 0, stderr);
  for (const name of given.cases) {
    const [[file, text], [ownFile, ownText]] = await Promise.all([filesOf(wanted, name), filesOf(folder, name)]);
    assert.equal(ownText.toString(), text.toString(), name);
    assert.ok(ownFile.equals(file), `the checkpoint of ${name}`);
  }
  return folder;
}

const OPEN = noCompiler || missing(openMpi),
  MPICH = noCompiler || missing(mpich);
let two: string | undefined;

test('2 ranks have the bits of one process', { skip: OPEN }, async () => {
  two = await compared(openMpi, 2, { cases: ALL });
});

test('4 ranks, with experts in another order, go on from what 2 ranks saved', { skip: OPEN }, async () => {
  const placement = { 8: [5, 2, 7, 0, 1, 6, 3, 4], 4: [3, 1, 0, 2] };
  await compared(openMpi, 4, { cases: ALL, placement, ...(two !== undefined && { from: two }) });
});

test('2 ranks of MPICH go on from what one process saved', { skip: MPICH }, async () => {
  await compared(mpich, 2, { cases: ['drop', 'classifier'], from: await oneProcess() });
});
