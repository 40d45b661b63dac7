// The elementary functions of float32 give the bits that they gave when every input was compared once
// (every-input.ts), as C text and as WebAssembly: on two million inputs and around the places where formulas change.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import { findToolchain } from '../../src/device/native/toolchain.ts';
import { definitionOf, ELEMENTARY, type Elementary } from '../../src/kernel/functions.ts';
import { functionsText, isNaNBits, nativeRows, wasmRows, type Rows } from './rows.ts';

/** Of the results, with one pattern for all NaN. Made from the C text before it was written in the kernel language. */
const EXPECTED: Readonly<Record<Elementary, string>> = {
  exp: 'd707c3ff8df15f2d',
  log: '902b10ab37006f68',
  tanh: 'eadd9b98391e45c0',
  sigmoid: '2359c64f1552561b',
  erf: 'bdc3b8d4647c7877',
  sin: 'a361c2a0514223ec',
  cos: '0d3c2c0627a42ab5',
};

function inputs(): Uint32Array {
  const edges = [
    0,
    2 ** -149,
    2 ** -126,
    0.3465,
    2 / 3,
    0.9,
    1,
    4 / 3,
    1.5708,
    4,
    9.25,
    88.73,
    89,
    104,
    2 ** 17,
    2 ** 22,
  ];
  const near = [...edges, Infinity, NaN].flatMap((x) => {
    const [bits] = new Uint32Array(Float32Array.of(x).buffer);
    return [-3, -2, -1, 0, 1, 2, 3].flatMap((step) => [bits + step, (bits + step) ^ 0x80000000]);
  });
  return Uint32Array.from([...near, ...Array.from({ length: 2 ** 21 }, (_, i) => i * 2047)]);
}

function hashOf(results: Uint32Array): string {
  const same = results.map((bits) => (isNaNBits(bits) ? 0x7fc00000 : bits));
  return createHash('sha256').update(new Uint8Array(same.buffer)).digest('hex').slice(0, 16);
}

function check(rows: Rows): void {
  const x = inputs();
  assert.deepEqual(Object.fromEntries(ELEMENTARY.map((f) => [f, hashOf(rows(f, x))])), EXPECTED);
}

const folder = mkdtempSync(join(tmpdir(), 'dynamoe-functions-'));
after(() => {
  rmSync(folder, { recursive: true, force: true });
});

const compiler = await findToolchain();
test('elementary functions as C keep their bits', { skip: !compiler && 'no C compiler' }, () => {
  check(nativeRows(folder, 'functions', functionsText(), (f) => `${f}_float32`));
});

const device = await WasmDevice.open(1),
  fused = device.info.exact.includes('float32');
await device.close();
test('elementary functions as WebAssembly keep their bits', { skip: !fused && 'no fused multiply-add' }, () => {
  check(wasmRows(inputs().length));
});

test('functions of float64 and other operations have no definition', () => {
  assert.equal(definitionOf('exp', 'float64'), null);
  assert.equal(definitionOf('sqrt', 'float32'), null);
});
