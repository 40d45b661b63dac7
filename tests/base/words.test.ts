// Tests lists that are shown in part, and paths in printed commands.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import fc from 'fast-check';
import { listed, shellWord } from '../../src/base/words.ts';

test('a list that is shown in part says how many are left out', () => {
  assert.equal(listed(['a', 'b'], 3), 'a, b');
  assert.equal(listed(['a', 'b', 'c'], 3), 'a, b, c');
  assert.equal(listed(['a', 'b', 'c', 'd', 'e'], 3), 'a, b, c and 2 more');
  assert.equal(listed([], 3), '');
});

const shell = spawnSync('sh', ['-c', 'true']).status === 0;

test('a shell reads any path in a printed command as it was', { skip: !shell && 'needs a POSIX shell' }, () => {
  const names = fc
    .array(
      fc.oneof(
        fc.constantFrom(
          ' ',
          "'",
          '"',
          '-',
          '\n',
          '\t',
          '%',
          '#',
          '?',
          '*',
          '$',
          '`',
          '\\',
          '!',
          '~',
          '&',
          ';',
          'ü',
          '名',
        ),
        fc.string({ unit: 'grapheme' }),
      ),
      { minLength: 1 },
    )
    .map((parts) => parts.join('').replaceAll('\0', ''))
    .filter((name) => name !== '' && name.isWellFormed());
  const many = fc.sample(names, { numRuns: 300, seed: 3 }),
    words = many.map(shellWord);
  const { stdout } = spawnSync('sh', ['-c', `printf '%s\\0' ${words.join(' ')}`], {
    encoding: 'utf8',
    env: { LC_ALL: 'C.UTF-8', PATH: process.env['PATH'] },
  });
  assert.deepEqual(
    stdout.split('\0').slice(0, -1),
    many.map((name) => (name.startsWith('-') ? `./${name}` : name)),
  );
});
