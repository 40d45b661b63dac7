// Index expressions are kept in a linear normal form; div and mod are simplified where the ranges of variables allow
// it. Simplified expressions must have the values of plain arithmetic, for all values of the variables.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { children, Exprs, maxOf, postorder, type Expr, type Var } from '../../src/kernel/expr.ts';
import { packingOf } from '../../src/schedule/packing.ts';
import { dependsOn, invariants, substitute } from '../../src/kernel/rewrite.ts';

/** How to build an index expression over three variables. */
type Recipe =
  | { readonly op: 'var'; readonly at: number }
  | { readonly op: 'const'; readonly value: number }
  | { readonly op: 'add'; readonly a: Recipe; readonly b: Recipe }
  | { readonly op: 'scale' | 'div' | 'mod' | 'flip'; readonly a: Recipe; readonly by: number };

const EXTENTS = [7, 5, 12];

const { recipe } = fc.letrec<{ recipe: Recipe }>((tie) => ({
  recipe: fc.oneof(
    { maxDepth: 5, withCrossShrink: true },
    fc.record({ op: fc.constant('var' as const), at: fc.nat(2) }),
    fc.record({ op: fc.constant('const' as const), value: fc.nat(20) }),
    fc.record({ op: fc.constant('add' as const), a: tie('recipe'), b: tie('recipe') }),
    fc.record({
      op: fc.constantFrom('scale' as const, 'div' as const, 'mod' as const, 'flip' as const),
      a: tie('recipe'),
      by: fc.integer({ min: 1, max: 12 }),
    }),
  ),
}));

/** The largest value of a recipe: `flip` counts down from it. */
function largest(r: Recipe): number {
  switch (r.op) {
    case 'var':
      return EXTENTS[r.at] - 1;
    case 'const':
      return r.value;
    case 'add':
      return largest(r.a) + largest(r.b);
    case 'scale':
      return largest(r.a) * r.by;
    case 'div':
      return Math.floor(largest(r.a) / r.by);
    case 'mod':
      return Math.min(largest(r.a), r.by - 1);
    case 'flip':
      return largest(r.a) + r.by;
  }
}

function build(e: Exprs, vars: readonly Var[], r: Recipe): Expr {
  switch (r.op) {
    case 'var':
      return vars[r.at];
    case 'const':
      return e.index(r.value);
    case 'add':
      return e.add(build(e, vars, r.a), build(e, vars, r.b));
    case 'scale':
      return e.scale(build(e, vars, r.a), r.by);
    case 'div':
      return e.div(build(e, vars, r.a), r.by);
    case 'mod':
      return e.mod(build(e, vars, r.a), r.by);
    case 'flip':
      return e.linear(largest(r.a) + r.by, [[-1, build(e, vars, r.a)]]);
  }
}

function expected(r: Recipe, at: readonly number[]): number {
  switch (r.op) {
    case 'var':
      return at[r.at];
    case 'const':
      return r.value;
    case 'add':
      return expected(r.a, at) + expected(r.b, at);
    case 'scale':
      return expected(r.a, at) * r.by;
    case 'div':
      return Math.floor(expected(r.a, at) / r.by);
    case 'mod':
      return expected(r.a, at) % r.by;
    case 'flip':
      return largest(r.a) + r.by - expected(r.a, at);
  }
}

/** Runs an index expression as C would: division truncates. */
function run(e: Expr, values: ReadonlyMap<Expr, number>): number {
  const known = values.get(e);
  if (known !== undefined) return known;
  if (e.k === 'const') return e.value;
  if (e.k === 'linear') return e.terms.reduce((n, [c, t]) => n + c * run(t, values), e.constant);
  assert.ok(e.k === 'op' && (e.op === 'div' || e.op === 'mod'));
  const [a, b] = e.args.map((x) => run(x, values));
  return e.op === 'div' ? Math.trunc(a / b) : a % b;
}

test('linear, div and mod have the values of plain arithmetic', () => {
  fc.assert(
    fc.property(recipe, (r) => {
      const e = new Exprs(),
        vars = EXTENTS.map((n) => e.loop(n)),
        made = build(e, vars, r);
      for (let i = 0; i < EXTENTS[0]; i++)
        for (let j = 0; j < EXTENTS[1]; j++)
          for (let k = 0; k < EXTENTS[2]; k++) {
            const at = [i, j, k],
              got = run(made, new Map(vars.map((v, n) => [v as Expr, at[n]])));
            assert.equal(got, expected(r, at));
            assert.ok(got <= maxOf(made), `maxOf says ${maxOf(made)}`);
          }
    }),
    { seed: 1, numRuns: 2000 },
  );
});

test('substitution replaces a variable by a value', () => {
  fc.assert(
    fc.property(recipe, fc.nat(6), (r, i) => {
      const e = new Exprs(),
        vars = EXTENTS.map((n) => e.loop(n)),
        made = build(e, vars, r);
      const replaced = substitute(e, made, new Map([[vars[0], e.index(i)]]));
      assert.ok(!dependsOn(replaced, new Set<Expr>([vars[0]])));
      for (let j = 0; j < EXTENTS[1]; j++) {
        assert.equal(
          run(
            replaced,
            new Map([
              [vars[1] as Expr, j],
              [vars[2] as Expr, 3],
            ]),
          ),
          expected(r, [i, j, 3]),
        );
      }
    }),
    { seed: 1, numRuns: 500 },
  );
});

test('packing an index in runs gives the same values as the whole index', () => {
  let runs = 0;
  fc.assert(
    fc.property(recipe, (r) => {
      const e = new Exprs(),
        vars = EXTENTS.map((n) => e.loop(n)),
        made = build(e, vars, r);
      const { inner, run: own } = packingOf(e, made, vars[2], vars[2]);
      if (!own) return;
      runs++;
      for (let i = 0; i < EXTENTS[0]; i++)
        for (let k = 0; k < EXTENTS[2]; k++) {
          const values = new Map<Expr, number>([
            [vars[0], i],
            [vars[1], 2],
            [vars[2], k],
          ]);
          values.set(own.index, Math.trunc((values.get(inner) ?? NaN) / own.length));
          assert.equal(run(own.value, values), run(made, values));
        }
    }),
    { seed: 1, numRuns: 2000 },
  );
  assert.ok(runs > 50, `${runs} had runs`);
});

test('the operand of a convolution is packed along channels, without a division inside a run', () => {
  const e = new Exprs(),
    i = e.loop(100, 'i'),
    k = e.loop(9 * 32, 'k');
  const [s, t, c] = [e.div(k, 96), e.mod(e.div(k, 32), 3), e.mod(k, 32)];
  const { inner, run: own } = packingOf(
    e,
    e.load(
      0,
      e.linear(0, [
        [32, i],
        [320, s],
        [32, t],
        [1, c],
      ]),
      'float32',
    ),
    k,
    i,
  );
  assert.ok(inner === k && own?.length === 32 && own.value.k === 'load');
  const divided = postorder([own.value]).filter((x) => x.k === 'op');
  assert.ok(
    divided.length > 0 && divided.every((x) => !dependsOn(x, new Set<Expr>([k]))),
    'divisions are outside the run',
  );
});

test('a row-major index splits into its row and column without division', () => {
  const e = new Exprs(),
    row = e.loop(100),
    column = e.loop(32);
  const linear = e.linear(0, [
    [32, row],
    [1, column],
  ]);
  assert.equal(e.div(linear, 32), row);
  assert.equal(e.mod(linear, 32), column);
  assert.equal(e.div(e.mod(linear, 32), 32), e.index(0));
});

test('joining the three or four parts of a split index gives the index itself', () => {
  const e = new Exprs(),
    i = e.loop(Infinity, 'i');
  const [n, r, q, c] = [e.div(i, 60), e.mod(e.div(i, 12), 5), e.mod(e.div(i, 3), 4), e.mod(i, 3)];
  assert.equal(
    e.linear(0, [
      [60, n],
      [12, r],
      [3, q],
      [1, c],
    ]),
    i,
  );
  assert.equal(
    e.linear(0, [
      [12, e.div(i, 12)],
      [3, q],
      [1, c],
    ]),
    i,
  );
  assert.equal(e.div(e.div(i, 3), 4), e.div(i, 12));
});

test('equal expressions are one object', () => {
  const e = new Exprs(),
    i = e.loop(10),
    j = e.loop(10);
  assert.equal(e.add(i, j), e.add(j, i));
  assert.equal(
    e.linear(3, [
      [2, i],
      [-2, i],
    ]),
    e.index(3),
  );
  assert.equal(e.load(0, e.add(i, j), 'float32'), e.load(0, e.add(j, i), 'float32'));
  assert.notEqual(e.const(0, 'float32'), e.const(-0, 'float32'));
  const sum = (): Expr => e.reduce('sum', 'lanes', 8, (r) => e.load(0, e.add(r, i), 'float32'));
  assert.equal(sum(), sum());
});

test('dimensions of size 0 divide to 0', () => {
  const e = new Exprs(),
    i = e.loop(0);
  assert.equal(e.div(i, 0), e.index(0));
  assert.equal(e.mod(i, 0), e.index(0));
  assert.equal(e.div(i, NaN), e.index(0));
});

test('postorder: operands come before the expressions that use them', () => {
  fc.assert(
    fc.property(recipe, (r) => {
      const e = new Exprs(),
        made = build(
          e,
          EXTENTS.map((n) => e.loop(n)),
          r,
        ),
        seen = new Set<Expr>();
      for (const x of postorder([made])) {
        assert.ok(children(x).every((c) => seen.has(c)) && !seen.has(x));
        seen.add(x);
      }
    }),
    { seed: 1 },
  );
});

test('invariants are the largest subexpressions that do not depend on the given variables', () => {
  const e = new Exprs(),
    row = e.loop(4),
    column = e.loop(8);
  const scale = e.op('exp', [e.load(0, row, 'float32')], 'float32');
  const x = e.op(
    'mul',
    [
      e.load(
        1,
        e.linear(0, [
          [8, row],
          [1, column],
        ]),
        'float32',
      ),
      scale,
    ],
    'float32',
  );
  assert.deepEqual(invariants([x], new Set<Expr>([column])), [scale]);
});
