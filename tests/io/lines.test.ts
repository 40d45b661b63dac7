// Tests reading lines of files of any size: each complete line once and in order, whatever bytes lie between them.
import assert from 'node:assert/strict';
import { appendFile, open, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { wideEncoding, withoutMark } from '../../src/io/encoding.ts';
import { keptBytes } from '../../src/io/event-log.ts';
import { linesOf, nextLines } from '../../src/io/lines.ts';
import { temporaryFolder } from './folder.ts';

async function all(path: string): Promise<string[]> {
  const lines: string[] = [];
  for await (const piece of linesOf(path)) lines.push(...piece);
  return lines;
}

/** The text of a log that is kept if its run is resumed at `step`. */
async function kept(path: string, step: number): Promise<string> {
  const file = await open(path, 'r');
  try {
    return (await readFile(path)).toString('latin1', 0, await keptBytes(file, step));
  } finally {
    await file.close();
  }
}

test('the lines are the same as those of the whole text', async (t) => {
  const path = join(await temporaryFolder(t), 'lines');
  const line = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.string().map((text) => text.repeat(50_000)),
    fc.constant('\r'),
    fc.constant('\uFEFFx'),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        line.map((text) => text.replaceAll('\n', '')),
        { maxLength: 12 },
      ),
      fc.constantFrom('\n', '\r\n'),
      fc.boolean(),
      fc.boolean(),
      async (texts, end, mark, last) => {
        await writeFile(path, (mark ? '\uFEFF' : '') + texts.join(end) + (last ? end : ''));
        const text = (await readFile(path, 'utf8'))
          .replace(/^\uFEFF/, '')
          .split('\n')
          .map((t) => t.replace(/\r$/, ''));
        if (text.at(-1) === '') text.pop(); // an empty rest after the last line break is not a line
        assert.deepEqual(await all(path), text);
      },
    ),
    { numRuns: 25 },
  );
});

test('bytes that are not UTF-8 are replaced, and other lines are not affected', async (t) => {
  const path = join(await temporaryFolder(t), 'bytes');
  await writeFile(path, Buffer.concat([Buffer.from('a\n'), Buffer.of(0xff, 0xfe, 0, 10), Buffer.from('b\r\n')]));
  assert.deepEqual(await all(path), ['a', '\uFFFD\uFFFD\0', 'b']);
});

const TORN = ['{"step":2,"lo', '\0\0\0', '3', 'null', '[', '{"step":1}{"step":1}', '\xff\xfe', ''];

test('incomplete lines anywhere in a log do not affect other lines', async (t) => {
  const path = join(await temporaryFolder(t), 'events.jsonl');
  const event = (step: number): string => JSON.stringify({ event: 'step', step, text: 'ü' });
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.option(fc.constantFrom(...TORN)), { maxLength: 30 }),
      fc.nat(30),
      fc.constantFrom('\n', '\r\n'),
      fc.constantFrom('', '{"step":1', event(1)),
      async (parts, checkpoint, end, tail) => {
        let step = 0;
        const lines = parts
          .map((torn) => torn ?? event(++step))
          .map((line) => Buffer.from(line + end, line.includes('ü') ? 'utf8' : 'latin1'));
        await writeFile(path, Buffer.concat([...lines, Buffer.from(tail)]));
        const before = (await all(path)).filter(
          (line) =>
            line.startsWith('{"event"') && (JSON.parse(line) as { step: number }).step <= Math.min(checkpoint, step),
        );
        const rest = await kept(path, checkpoint);
        assert.equal(rest === '' || rest.endsWith('\n'), true);
        await writeFile(path, Buffer.from(rest, 'latin1'));
        const after = await all(path);
        assert.deepEqual(
          after.filter((line) => line.startsWith('{"event"')),
          tail === event(1) ? before.slice(0, Math.min(checkpoint, step)) : before,
        );
        assert.equal(after.at(-1)?.startsWith('{"event"') ?? true, true, 'no incomplete line remains at the end');
      },
    ),
    { numRuns: 60 },
  );
});

test('a log that is larger than the largest string or array is read to its end', async (t) => {
  const path = join(await temporaryFolder(t), 'events.jsonl'),
    size = 2 ** 29 + 2 ** 20,
    more = '\n{"event":"step","step":2}\n{"event":"step","step":3}\n';
  await writeFile(path, '{"event":"start"}\n{"event":"step","step":1}\n');
  await truncate(path, size); // an incomplete line of half a GiB: zeros, which take no space on the disk
  await appendFile(path, more);
  const file = await open(path, 'r');
  t.after(() => file.close());
  assert.equal(await keptBytes(file, 2), size + 1 + '{"event":"step","step":2}\n'.length);
  const beyond = 5 * 2 ** 30;
  await truncate(path, beyond);
  await appendFile(path, more);
  const end = (await file.stat()).size;
  assert.deepEqual((await nextLines(file, beyond + 1, end))?.lines, [
    '{"event":"step","step":2}',
    '{"event":"step","step":3}',
  ]);
  assert.equal(await nextLines(file, end, end), null);
});

test('encodings are distinguished', () => {
  const wide = (text: string, big = false): Buffer => {
    const bytes = Buffer.from(text, 'utf16le');
    return big ? bytes.swap16() : bytes;
  };
  for (const big of [false, true])
    for (const text of ['\uFEFFa', '\uFEFF', '{"steps": 3}', 'hello\r\n', '\uFEFF日本語'])
      assert.equal(wideEncoding(wide(text, big)), 'UTF-16', text);
  assert.equal(wideEncoding(Buffer.from([0xff, 0xfe, 0, 0, 97, 0, 0, 0])), 'UTF-32');
  for (const bytes of [
    Buffer.alloc(0),
    Buffer.alloc(64),
    Buffer.from('plain'),
    Buffer.from('\uFEFFmarked'),
    Buffer.from('日本語'),
    Buffer.of(97, 0),
  ])
    assert.equal(wideEncoding(bytes), null);
  assert.equal(Buffer.from(withoutMark(Buffer.from('\uFEFFa\uFEFF'))).toString(), 'a\uFEFF');
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      assert.equal(wideEncoding(Buffer.from(text.replaceAll('\0', ''))), null);
      assert.equal(
        Buffer.from(withoutMark(Buffer.from(text))).toString(),
        Buffer.from(text)
          .toString()
          .replace(/^\uFEFF/, ''),
      );
    }),
  );
});
