// Tests the campaign: cases that failed in the past, a random share of all attacks with another seed for each commit,
// and known faults that the campaign must find.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Finding } from '../../campaign/attempts.ts';
import { partNamed, PART_NAMES } from '../../campaign/parts.ts';
import { redact } from '../../campaign/redact.ts';
import type { PartSummary } from '../../campaign/report.ts';

const RUN = fileURLToPath(new URL('../../campaign/run.ts', import.meta.url));
interface Summary {
  readonly event: string;
  readonly seed: number;
  readonly parts: readonly PartSummary[];
  readonly findings: readonly Finding[];
}

async function campaign(...args: readonly string[]): Promise<{ code: number; summary: Summary }> {
  const child = spawn(process.execPath, ['--conditions=dynamoe-source', RUN, '--json', ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let stdout = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  const [code] = (await once(child, 'close')) as [number];
  return {
    code,
    summary: stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Summary)
      .find((e) => e.event === 'campaign')!,
  };
}

const all = await Promise.all(PART_NAMES.map(partNamed)),
  missing = new Map(all.map((part) => [part.name, part.missing?.() ?? false])),
  here = PART_NAMES.filter((name) => missing.get(name) === false);

const describe = ({ findings }: Summary): string =>
  findings.map((f) => `${f.promise}\n${f.what}\n${f.command}`).join('\n\n');

test('cases that failed in the past do not fail again', { timeout: 240_000 }, async () => {
  const { code, summary } = await campaign('--kept');
  assert.equal(code, 0, describe(summary));
});

test('a random share of the campaign, with another seed for each commit', { timeout: 240_000 }, async (t) => {
  const seed = seedOfCommit,
    parts = [0, 1, 2].map((i) => here[(seed + i) % here.length]);
  t.diagnostic(`npm run campaign -- --minutes 0.3 --seed ${seed} --only ${parts.join(' ')}`);
  const args = ['--minutes', '0.3', '--shrink', '5', '--seed', String(seed)];
  const { code, summary } = await campaign(...args, '--only', ...parts);
  assert.equal(code, 0, describe(summary));
  assert.ok(summary.parts.every((p) => p.attacks > 0));
});

/** The commit of the checkout. Without Git, the number of the day. */
function commit(): string {
  try {
    return execFileSync('git', ['rev-parse', 'HEAD'], {
      encoding: 'utf8',
      cwd: import.meta.dirname,
      stdio: ['ignore', 'pipe', 'ignore'],
    });
  } catch {
    return Math.floor(Date.now() / 86_400_000)
      .toString(16)
      .padStart(6, '0');
  }
}

const seedOfCommit = parseInt(commit().slice(0, 6), 16),
  AT_ONCE = 2;
const faults = all.flatMap(({ name, knownFaults }) => knownFaults.map((fault) => ({ name, fault })));
const TRIES = 4; // of the printed command
faults.forEach(({ name, fault }, i) => {
  // Each commit tests two of the faults; `npm run ci:full` tests all.
  const now =
    process.env['DYNAMOE_FULL'] === '1' ||
    (i + faults.length - (seedOfCommit % faults.length)) % faults.length < AT_ONCE;
  test(
    `${name}: finds a known fault (${fault}), and the printed command finds it again`,
    { skip: now ? missing.get(name) : 'another commit tests it; npm run ci:full tests all', timeout: 240_000 },
    async () => {
      const limits = ['--minutes', '60', '--attacks', '12', '--shrink', '0', '--most', '1'];
      const { code, summary } = await campaign(...limits, '--seed', '1', '--only', name, '--plant', fault);
      assert.equal(code, 1, 'nothing was found');
      const [{ promise, what, command, attack }] = summary.findings;
      assert.ok(promise.length > 10 && what.length > 10);
      assert.doesNotMatch(what, /\/(tmp|home|root|usr)\//, 'a finding names no folder of this machine');
      const given = /--only (\S+) --case '(.*)'$/s.exec(command);
      assert.deepEqual([given?.[1], JSON.parse(given?.[2].replaceAll("'\\''", "'") ?? '')], [name, attack]);
      // A fault in the order of calls shows only if calls overlap, which one try in two may miss.
      let repeated = false;
      for (let i = 0; i < TRIES && !repeated; i++) {
        const again = await campaign('--only', name, '--case', JSON.stringify(attack), '--plant', fault);
        repeated = again.code === 1;
      }
      assert.ok(repeated, 'the command repeats it');
    },
  );
});

test('reports contain no names of folders, users or hosts', () => {
  assert.equal(
    redact("EIO, open '/home/someone/runs/a/events.jsonl' at file:///opt/dynamoe/src/io/atomic.ts:12:3"),
    "EIO, open 'events.jsonl' at atomic.ts:12:3",
  );
});
