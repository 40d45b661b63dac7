// Every failure of a rank ends all ranks, with one line that names rank, step and reason.
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { missing, mpich, openMpi, runRanks, scriptPath, type Ended, type Mpi } from '../../support/mpi.ts';

const script = scriptPath('failures'),
  DIFFERENT = 'the ranks run different programs: rank 0 step 5 of plan plan, rank 1',
  AT = 'step 5 \\(exchangeRows 12 in layers\\.0\\.moe\\)',
  SILENT = 'rank 1 has given no sign of life for \\d+\\.\\d s: it was stopped or cut off';

/** By fault, the line of two ranks; which of them prints it may depend on which of them notices first. */
const LINES: Readonly<Record<string, string>> = {
  throw: 'rank 1, step 5: TypeError: a bug',
  exit: 'rank 1, step 5: this process ends before the others \\(exit status 0\\)',
  abort: 'rank 1, step 5: the disk is full; hint: free some space',
  stop: `rank 0, ${AT}: ${SILENT}`,
  'throw begun': 'rank 1, step 5: TypeError: a bug',
  'abort begun': 'rank 1, step 5: the disk is full; hint: free some space',
  // What it has sent may already be enough for rank 0 to begin the next step.
  'stop begun': `rank 0, ${AT.replace('5', '[56]')}: ${SILENT}`,
  stopStart: 'rank 0: rank 1 was stopped before all ranks had started',
  stopWaiting: `rank 0, ${AT}: ${SILENT}`,
  plan: `rank 0, ${AT}: ${DIFFERENT} step 5 of plan another plan`,
  step: `rank 0, ${AT}: ${DIFFERENT} step 6 of plan plan`,
  elsewhere: `rank 0, ${AT}: the ranks wait for each other: rank 1 waits at step 5 \\(gather\\)`,
  more: `rank 1, ${AT}: 8 rows are sent to expert 2, there is room for 6`,
  slots: `rank 1, ${AT}: the slots are not a permutation of the experts`,
  counts: `rank 0, ${AT}: rank 1 sent 8 bytes instead of 12: the ranks disagree about counts`,
  same: 'rank 0, step 5: the ranks differ in the plan: rank 0: a plan; rank 1: another plan',
  calls: 'rank 0, step 5: the ranks do different things: rank 0 compare the plan, rank 1 gather',
  unclosed: `rank 0, ${AT}: the ranks wait for each other: rank 1 waits at step 4 \\(close\\)`,
};

/** The lines in which ranks say why they end. */
const reasons = (stderr: string): string[] => stderr.split('\n').filter((l) => /^rank \d+(, step \d+)?.*: /.test(l));

/** The processes of all ranks are gone. */
async function checkGone({ stdout }: Ended): Promise<void> {
  const pids = [...stdout.matchAll(/^process (\d+)$/gm)].map(([, pid]) => Number(pid));
  assert.ok(pids.length > 0, stdout);
  const alive = (): number[] =>
    pids.filter((pid) => {
      try {
        return process.kill(pid, 0);
      } catch {
        return false;
      }
    });
  // The launcher has ended, but a process may be about to end.
  for (let i = 0; alive().length > 0 && i < 200; i++) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual(alive(), []);
}

async function fails(mpi: Mpi, n: number, fault: string, env: Record<string, string> = {}): Promise<Ended> {
  const ended = await runRanks(mpi, n, script, fault.split(' '), env),
    { status, stdout, stderr } = ended;
  assert.ok(status !== null && status !== 0, `status ${status}: ${stderr}`);
  assert.doesNotMatch(stdout, /has run all steps/);
  await checkGone(ended);
  return ended;
}

/** With MPICH, those that depend on what the library and its launcher do. */
const WITH_MPICH = new Set(['throw', 'exit', 'stop', 'stopStart', 'elsewhere', 'counts', 'throw begun', 'stop begun']);

// Most of the time these wait.
describe('failures of ranks', { concurrency: 4 }, () => {
  for (const mpi of [openMpi, mpich]) {
    const skip = missing(mpi);
    for (const [fault, line] of Object.entries(LINES)) {
      if (mpi === mpich && !WITH_MPICH.has(fault)) continue;
      test(`${mpi.name}: a rank fails by ${fault}`, { skip }, async () => {
        const { stderr } = await fails(mpi, 2, fault);
        assert.equal(reasons(stderr).length, 1, stderr);
        assert.match(stderr, new RegExp(`^${line}$`, 'm'));
      });
    }

    for (const fault of ['kill', 'kill begun'])
      test(`${mpi.name}: a rank fails by ${fault}`, { skip }, async () => {
        const { stdout, stderr } = await fails(mpi, 2, fault);
        // The launcher, which says so too, may end rank 0 before it does.
        assert.match(stdout + stderr, /^rank 0, step [56].*: rank 1 \(process \d+\) has ended$|signal 9|EXIT CODE: 9/m);
        assert.ok(reasons(stderr).length <= 1, stderr);
      });

    test(`${mpi.name}: a rank has no memory left`, { skip }, async () => {
      const { stderr } = await fails(mpi, 2, 'memory', { NODE_OPTIONS: '--max-old-space-size=60' });
      assert.match(stderr, /^rank 1, step 5: this process was aborted; the lines before say why$/m);
      assert.equal(reasons(stderr).length, 1, stderr);
    });

    test(`${mpi.name}: a live rank that does not come`, { skip }, async () => {
      const { stderr } = await fails(mpi, 2, 'endless', { DYNAMOE_RANKS_PATIENCE: '2' });
      assert.equal(reasons(stderr).length, 1, stderr);
      assert.match(
        stderr,
        new RegExp(`^rank 0, ${AT}: has waited for \\d+\\.\\d s: rank 1 is alive, but has not come$`, 'm'),
      );
    });

    test(`${mpi.name}: a rank that does not start`, { skip }, async () => {
      const { stderr } = await fails(mpi, 2, 'never', { DYNAMOE_RANKS_PATIENCE: '2' });
      assert.equal(reasons(stderr).length, 1, stderr);
      assert.match(stderr, /^rank 0: after [23] s not all ranks have started; none of this host is stopped$/m);
    });

    test(`${mpi.name}: a rank is stopped that others wait for to compile the library`, { skip }, async (t) => {
      const cache = await mkdtemp(join(tmpdir(), 'dynamoe-test-'));
      t.after(() => rm(cache, { recursive: true, force: true }));
      const { stderr } = await fails(mpi, 3, 'stopCompiler', { DYNAMOE_CACHE: cache });
      assert.match(stderr, /\brank 1: rank 0 was stopped before all ranks had started$/m);
    });

    test(`${mpi.name}: a rank that compiles, or keeps its thread busy, ends nothing`, { skip }, async () => {
      for (const [fault, variable] of [
        ['compiles', 'DYNAMOE_RANKS_PATIENCE'],
        ['busy', 'DYNAMOE_RANKS_SILENCE'],
        ['busy begun', 'DYNAMOE_RANKS_SILENCE'],
      ]) {
        const { status, stdout, stderr } = await runRanks(mpi, 2, script, fault.split(' '), { [variable]: '2' });
        assert.equal(status, 0, stderr);
        assert.match(stdout, /^rank 0 has run all steps$/m);
        assert.match(stdout, /^rank 1 has run all steps$/m);
      }
    });
  }

  for (const fault of ['throw', 'stop', 'plan', 'elsewhere', 'more', 'same'])
    test(`four ranks: one fails by ${fault}`, { skip: missing(openMpi) }, async () => {
      const { stderr } = await fails(openMpi, 4, fault);
      assert.equal(reasons(stderr).length, 1, stderr);
      assert.match(stderr, /^rank \d, step 5.*: .*$/m);
    });
});
