// Tests numbers as text, and lines that replace one another on terminals of any width.
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { test } from 'node:test';
import type { WriteStream } from 'node:tty';
import { bar, bytes, count, duration, sparkline, table } from '../../src/base/format.ts';
import { Screen } from '../../src/cli/screen.ts';

test('numbers are formatted for people', () => {
  assert.deepEqual([0, 999, 1000, 12_345, 999_999, 2.5e6].map(count), ['0', '999', '1.00k', '12.3k', '1.00M', '2.50M']);
  assert.deepEqual([512, 9_720_320].map(bytes), ['512 B', '9.72 MB']);
  assert.deepEqual([0.4, 59.6, 65, 7380, Infinity].map(duration), ['0 s', '1 m 00 s', '1 m 05 s', '2 h 03 m', '-']);
  assert.equal(sparkline([0, 1, 2, 4]), '▁▃▅█');
  assert.equal(sparkline([]), '');
  assert.equal(bar(0.5, 4), '██░░');
  assert.equal(
    table(
      ['a', 'b'],
      [
        ['1', 'x'],
        ['10', 'yy'],
      ],
    ),
    ' a  b\n 1  x\n10  yy',
  );
});

/**
 * The part of a terminal that Screen needs: it interprets \r, \n, ESC[nA and ESC[J, and fails on a line that would
 * wrap.
 */
class Terminal extends EventEmitter {
  columns = 30;
  rows = 10;
  lines = [''];
  row = 0;
  write(text: string): boolean {
    for (const [part, up] of text.matchAll(/\x1b\[(\d+)A|\x1b\[J|\r|\n|[^\x1b\r\n]+/g)) {
      if (part === '\r') continue;
      if (part === '\n') this.lines[++this.row] ??= '';
      else if (up) this.row -= Number(up);
      else if (part === '\x1b[J') {
        this.lines.length = this.row + 1;
        this.lines[this.row] = '';
      } else {
        this.lines[this.row] += part;
        assert.ok(this.lines[this.row].length <= this.columns, 'no line wraps');
      }
    }
    return true;
  }
}

test('lines at the bottom are replaced, lines above stay', () => {
  const terminal = new Terminal(),
    screen = new Screen(terminal as unknown as WriteStream);
  screen.print('one');
  screen.draw(['a', 'b']);
  screen.draw(['c', 'a line that is much longer than this terminal is wide']);
  assert.deepEqual(terminal.lines, ['one', 'c', 'a line that is much longer t…']);
  screen.print('two');
  assert.deepEqual(terminal.lines.slice(0, 3), ['one', 'two', 'c']);
  screen.draw(['d']);
  assert.deepEqual(terminal.lines, ['one', 'two', 'd']);
  screen.close();
  assert.deepEqual(terminal.lines, ['one', 'two', '']);
});
