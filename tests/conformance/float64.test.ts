// Elementary functions of float64 on every device: within 1 ulp of the correctly rounded result, and the right value
// at 0, infinities, NaN and very large or small numbers.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { math64 } from '../../src/base/math64.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { cos, erf, exp, log, pow, sigmoid, sin, softplus, sqrt, tanh } from '../../src/graph/ops/functions.ts';
import { ops } from '../../src/graph/ops/index.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { compileGraph, loadProgram } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { exact, ulps } from '../support/exact.ts';
import { DEVICES } from './devices.ts';

const N = 600,
  POWERS = [0.5, -1.7, 3, -2, 7.25, 40, 1 / 3];
const stream = new Stream(11, 'ulps');
const sign = (i: number): number => (i % 2 ? -1 : 1);
/** Random arguments of each function, of all magnitudes, from a uniform number u. */
const draws: Readonly<Record<string, (u: number, i: number) => number>> = {
  exp: (u, i) => (2 * u - 1) * [1, 40, 700][i % 3],
  log: (u, i) => (i % 3 === 0 ? 1 + sign(i) * u * 2 ** -(i % 40) : 2 ** ((2 * u - 1) * 1000)),
  tanh: (u, i) => sign(i) * (i % 3 === 0 ? 2 ** (-60 * u) : 24 * u ** 2),
  sigmoid: (u, i) => sign(i) * u * [1, 40, 190][i % 3],
  erf: (u, i) => sign(i) * (i % 3 === 0 ? 2 ** (-60 * u) : 6.2 * u),
  sin: (u, i) => sign(i) * u * [4, 1e4, 2 ** 80][i % 3],
  cos: (u, i) => sign(i) * u * [4, 1e4, 2 ** 80][i % 3],
  sqrt: (u) => 2 ** ((2 * u - 1) * 500),
};
const made: Readonly<Record<string, (x: Tensor) => Tensor>> = { exp, log, tanh, sigmoid, erf, sin, cos, sqrt };
const argument = (name: string): Float64Array =>
  Float64Array.from({ length: N }, (_, i) => draws[name](stream.uniform(name.length, i), i));

const ENDS = Float64Array.of(
  0,
  -0,
  Infinity,
  -Infinity,
  NaN,
  5e-324,
  -5e-324,
  Number.MAX_VALUE,
  -Number.MAX_VALUE,
  800,
  -800,
  1e-300,
  -1e-300,
  1,
  -1,
);

test('the functions that the reference uses: within 1 ulp', () => {
  for (const name of ['tanh', 'sigmoid', 'erf'] as const)
    for (const x of argument(name))
      assert.ok(
        ulps(math64[name](x), exact[name](x, 0)) <= 1,
        `${name}(${x}) = ${math64[name](x)}, not ${exact[name](x, 0)}`,
      );
});

for (const entry of DEVICES) {
  test(`within 1 ulp: ${entry.name}`, async (t) => {
    const reason = await entry.skip();
    if (reason !== null) {
      t.skip(reason);
      return;
    }
    const b = new GraphBuilder(ops),
      given: Record<string, Float64Array> = {
        base: Float64Array.from({ length: N }, (_, i) => 2 ** ((2 * stream.uniform(99, i) - 1) * (i % 2 ? 3 : 20))),
        ends: ENDS,
      };
    for (const name of Object.keys(made)) {
      given[name] = argument(name);
      b.output(name, made[name](b.input('input', name, { dtype: 'float64', shape: [N] })));
    }
    const base = b.input('input', 'base', { dtype: 'float64', shape: [N] }),
      ends = b.input('input', 'ends', { dtype: 'float64', shape: [ENDS.length] });
    POWERS.forEach((p, i) => {
      b.output(`pow${i}`, pow(base, p));
    });
    for (const name of Object.keys(made)) b.output(`ends ${name}`, made[name](ends));
    b.output('softplus', softplus(ends));
    const executor = new ProgramExecutor(await entry.open());
    const out = await executor.run(await loadProgram(executor, compileGraph(b.build(), executor.device.target)), given);
    await executor.close();

    let worst = 0;
    const check = (what: string, got: number, want: number): void => {
      const apart = ulps(got, want);
      worst = Math.max(worst, apart);
      assert.ok(apart <= 1, `${what} = ${got}, not ${want}`);
    };
    for (const name of Object.keys(made))
      given[name].forEach((x, i) => {
        check(`${name}(${x})`, Number(out[name].data[i]), exact[name](x, 0));
      });
    POWERS.forEach((p, k) => {
      given['base'].forEach((x, i) => {
        check(`${x} ** ${p}`, Number(out[`pow${k}`].data[i]), exact['pow'](x, p));
      });
    });
    assert.ok(worst <= 1);
    const math: Readonly<Record<string, (x: number) => number>> = {
      exp: Math.exp,
      log: Math.log,
      tanh: Math.tanh,
      sin: Math.sin,
      cos: Math.cos,
      sqrt: Math.sqrt,
      sigmoid: (x) => (x < -37 ? Math.exp(x) : 1 / (1 + Math.exp(-x))),
      erf: (x) => math64.erf(x),
    };
    for (const name of Object.keys(made))
      ENDS.forEach((x, i) => {
        const got = Number(out[`ends ${name}`].data[i]),
          want = math[name](x);
        assert.ok(
          Number.isNaN(want) ? Number.isNaN(got) : ulps(got, want) <= 1 && (got !== 0 || Object.is(got, want)),
          `${name}(${x}) = ${got}, not ${want}`,
        );
      });
    const small = Array.from(out['softplus'].data, Number);
    assert.ok(
      ulps(small[10], Math.exp(-800)) <= 1 &&
        small[2] === Infinity &&
        small[3] === 0 &&
        Number.isNaN(small[4]) &&
        small[7] === Number.MAX_VALUE,
      small.join(' '),
    );
  });
}
