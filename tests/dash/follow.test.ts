// Tests following a log: each complete line is read once, also if its run was killed, and then cut the log and
// continued.
import assert from 'node:assert/strict';
import { appendFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Follower } from '../../src/dash/follow.ts';
import { temporaryFolder } from '../io/folder.ts';
import { linesOf, startAt, steps } from './events.ts';

test('each complete line is read once; a log that does not exist yet is waited for', async (t) => {
  const path = join(await temporaryFolder(t), 'events.jsonl'),
    follower = new Follower(path);
  assert.equal(await follower.read(), null);
  writeFileSync(path, '{"a":1}\n{"a":');
  assert.deepEqual(await follower.read(), { reset: true, lines: ['{"a":1}'] });
  assert.equal(await follower.read(), null, 'an incomplete line is not read');
  appendFileSync(path, '2}\n{"ä":3}\n');
  assert.deepEqual(await follower.read(), { reset: false, lines: ['{"a":2}', '{"ä":3}'] });
  assert.equal(await follower.read(), null);
});

test('a log that was cut is read again from its start, also if it has grown beyond the old offset since', async (t) => {
  const path = join(await temporaryFolder(t), 'events.jsonl'),
    follower = new Follower(path),
    before = linesOf(steps(1, 20));
  writeFileSync(path, before);
  assert.equal((await follower.read())?.lines.length, 20);
  writeFileSync(path, linesOf(steps(1, 5)));
  assert.deepEqual([(await follower.read())?.reset, await follower.read()], [true, null]);
  // Between two reads, the run is resumed at step 3 and gets further than before.
  writeFileSync(path, linesOf([...steps(1, 3), startAt(9, 3), ...steps(4, 30)]));
  const again = await follower.read();
  assert.equal(again?.reset, true);
  assert.equal(again.lines.length, 31);
});

test('a log of many chunks, and a line longer than a chunk', async (t) => {
  const path = join(await temporaryFolder(t), 'events.jsonl'),
    follower = new Follower(path),
    long = JSON.stringify({ text: 'x'.repeat(700_000) });
  const all = [...linesOf(steps(1, 2000)).trimEnd().split('\n'), long, '{"last":1}'];
  writeFileSync(path, `${all.join('\n')}\n`);
  const seen: string[] = [];
  let reads = 0;
  for (let got = await follower.read(); got; got = await follower.read()) {
    assert.equal(got.reset, reads++ === 0);
    seen.push(...got.lines);
  }
  assert.ok(reads > 2);
  assert.deepEqual(seen, all);
});
