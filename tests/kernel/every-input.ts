// Compares the elementary functions with those of an earlier revision for all 2^32 inputs, run by hand:
//
//   node --conditions=dynamoe-source tests/kernel/every-input.ts REVISION
//
// REVISION: where src/device/native/math.h has the functions of float32 (dm_expf, ...). Three texts are compared: that
// header compiled alone, today's C text, today's WebAssembly. Prints one line for each function; the exit code is 1 if
// a result differs in a bit. (NaN has many bit patterns, which no promise covers: pairs of NaN with other bits are
// counted.)
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ELEMENTARY } from '../../src/kernel/functions.ts';
import { differences, functionsText, nativeRows, wasmRows } from './rows.ts';

const [revision = 'HEAD'] = process.argv.slice(2),
  LENGTH = 2 ** 20;
const folder = mkdtempSync(join(tmpdir(), 'dynamoe-every-input-'));
process.on('exit', () => {
  rmSync(folder, { recursive: true, force: true });
});
const header = execFileSync('git', ['show', `${revision}:src/device/native/math.h`], { encoding: 'utf8' });
const before = nativeRows(folder, 'before', header, (f) => `dm_${f}f`),
  native = nativeRows(folder, 'native', functionsText(), (f) => `${f}_float32`),
  wasm = wasmRows(LENGTH),
  x = new Uint32Array(LENGTH);
for (const f of ELEMENTARY) {
  const found = { native: { wrong: 0, nans: 0 }, wasm: { wrong: 0, nans: 0 } };
  let inputs = 0;
  for (let from = 0; from < 2 ** 32; from += LENGTH) {
    for (let i = 0; i < LENGTH; i++) x[i] = from + i;
    const expected = before(f, x);
    for (const [name, rows] of [
      ['native', native],
      ['wasm', wasm],
    ] as const) {
      const { at, nans } = differences(expected, rows(f, x));
      found[name].wrong += at.length;
      found[name].nans += nans;
    }
    inputs += LENGTH;
  }
  console.log(`${f}: ${inputs} inputs; other results ${JSON.stringify(found)}`);
  if (found.native.wrong + found.wasm.wrong > 0) process.exitCode = 1;
}
