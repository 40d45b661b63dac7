// Following a log: each line once, whole, also where the run that writes it was killed, cut its log and went on.
import assert from 'node:assert/strict';
import { appendFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Follower } from '../../src/dash/follow.ts';
import { temporaryFolder } from '../io/folder.ts';
import { linesOf, startAt, steps } from './events.ts';

test('lines come once, whole lines only, and a log that is not there yet is waited for', async (t) => {
  const path = join(await temporaryFolder(t), 'events.jsonl'),
    follower = new Follower(path);
  assert.equal(await follower.read(), null);
  writeFileSync(path, '{"a":1}\n{"a":');
  assert.deepEqual(await follower.read(), { reset: true, lines: ['{"a":1}'] });
  assert.equal(await follower.read(), null, 'half a line is none');
  appendFileSync(path, '2}\n{"ä":3}\n');
  assert.deepEqual(await follower.read(), { reset: false, lines: ['{"a":2}', '{"ä":3}'] });
  assert.equal(await follower.read(), null);
});

test('a log that was cut is told anew, also where it has grown past the old place since', async (t) => {
  const path = join(await temporaryFolder(t), 'events.jsonl'),
    follower = new Follower(path),
    before = linesOf(steps(1, 20));
  writeFileSync(path, before);
  assert.equal((await follower.read())?.lines.length, 20);
  writeFileSync(path, linesOf(steps(1, 5)));
  assert.deepEqual([(await follower.read())?.reset, await follower.read()], [true, null]);
  // Resumed at step 3 and further on than before within one look.
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
