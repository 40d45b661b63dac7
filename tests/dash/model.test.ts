// Tests the state that the page keeps of a run: columns are thinned without losing peaks, bins are merged without
// losing a choice, time has no breaks.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Bins } from '../../src/dash/page/bins.ts';
import { Column, Smooth, thinned } from '../../src/dash/page/columns.ts';
import { change } from '../../src/dash/page/format.ts';
import { parsed } from '../../src/dash/page/parse.ts';
import { slowestOf } from '../../src/dash/page/ranks.ts';
import { Run } from '../../src/dash/page/run.ts';
import type { LogEvent, PlanEvent, StepEvent } from '../../src/train/events.ts';
import { doneAt, evalAt, LAYER, planAt, recompileAt, startAt, stepAt, steps } from './events.ts';

const column = (n: number, f: (i: number) => number): Column => {
  const made = new Column();
  for (let i = 0; i < n; i++) made.push(f(i));
  return made;
};

test('thinning keeps every peak, in order, with at most two values for each pixel', () => {
  const n = 100_000,
    xs = column(n, (i) => i),
    ys = column(n, (i) => (i === 70_001 ? 1000 : i === 70_002 ? -1000 : Math.sin(i)));
  const {
    xs: at,
    ys: [values],
  } = thinned(xs, [ys], 0, n, 500);
  assert.ok(at.length <= 1000 && at.length === values.length);
  assert.deepEqual(
    at,
    [...at].sort((a, b) => a - b),
  );
  const high = values.indexOf(1000);
  assert.equal(values[high + 1], -1000, 'the highest came before the lowest');
  assert.equal(xs.indexOf(70_000.5), 70_001);
  assert.deepEqual(thinned(xs, [column(3, () => NaN)], 0, 3, 500).ys, [[null, null, null]]);
});

test('smoothing a growing column gives the same as smoothing it at once', () => {
  const all = column(300, (i) => Math.cos(i)),
    growing = new Column(),
    smooth = new Smooth(growing);
  for (let i = 0; i < 300; i++) {
    growing.push(all.at(i));
    if (i % 7 === 0) smooth.upTo(0.9);
  }
  const whole = new Smooth(all).upTo(0.9),
    parts = smooth.upTo(0.9);
  assert.equal(parts.length, 300);
  for (let i = 0; i < 300; i++) assert.equal(parts.at(i), whole.at(i));
  assert.equal(smooth.upTo(0).last, all.last);
});

test('the number of bins stays small, and they contain the mean of all steps', () => {
  const bins = new Bins(3),
    n = 5000;
  let sum = 0;
  for (let step = 1; step <= n; step++) {
    bins.add(step, [step, 2, 0]);
    sum += step;
  }
  const all = bins.within(1, n, 100_000);
  assert.ok(all.length <= 1024 && all.length > 500);
  assert.equal(
    all.reduce((m, b) => m + b.load[0] * b.steps, 0),
    sum,
  );
  assert.deepEqual(
    all.map((b) => b.load[1]),
    all.map(() => 2),
  );
  all.forEach((b, i) => {
    assert.equal(b.from, i === 0 ? 1 : all[i - 1].to + 1);
  });
  const few = bins.within(1000, 2000, 10);
  assert.ok(few.length <= 10 && few[0].from <= 1000 && few[few.length - 1].to >= 2000);
});

test('the state of a run follows from its log', () => {
  const run = new Run('a');
  assert.equal(run.status, 'waiting');
  for (const e of [startAt(), ...steps(1, 10), planAt(1, 1.5), evalAt(10)]) run.add(e);
  assert.equal(run.status, 'running');
  assert.ok(Math.abs(run.elapsed.last - 0.1) < 1e-6, String(run.elapsed.last));
  // The run was killed and is resumed an hour later: the hour does not count as training.
  run.add(startAt(3600, 10));
  run.add({ ...stepAt(11), time: startAt(3600.05).time });
  assert.ok(Math.abs(run.elapsed.last - 0.15) < 1e-6, String(run.elapsed.last));
  run.add(recompileAt(12, true));
  run.add(planAt(12, 2.5));
  run.add(stepAt(12));
  run.add(doneAt(12));
  assert.equal(run.status, 'done');
  assert.deepEqual(run.rowsAt(LAYER, 11, [40, 10, 10, 4]), [24, 24, 24, 24], 'ceil(1.5 * 64 / 4)');
  assert.deepEqual(run.rowsAt(LAYER, 12, [40, 10, 10, 4]), [40, 40, 40, 40]);
  const stats = run.layers.get(LAYER)?.stats;
  assert.deepEqual([...(stats?.keys() ?? [])], ['spilled', 'gate_entropy']);
  for (const c of stats?.values() ?? []) assert.equal(c.length, run.step.length);
});

test('lines that are not events are skipped', () => {
  for (const line of ['', '{', '3', 'null', '{"a":1}', '{"event":7}']) assert.equal(parsed(line), null, line);
  const run = new Run('a');
  run.add(parsed('{"event":"of a later version"}')!);
  assert.equal(run.status, 'waiting');
});

test('free slots have capacity 0, and operations on experts are described in words', () => {
  const run = new Run('run'),
    plan = planAt(1, 1.5) as PlanEvent & { time: number };
  for (const e of [
    startAt(),
    { ...plan, layers: { [LAYER]: { ...plan.layers[LAYER], active: [true, true, false, true] } } },
    ...steps(1, 5),
  ])
    run.add(e);
  assert.deepEqual(run.rowsAt(LAYER, 3, [40, 10, 0, 10]), [30, 30, 0, 30], 'ceil(1.5 * 60 / 3)');
  const slots = (from: unknown, to: unknown): string => change({ path: LAYER, knob: 'slots', from, to });
  assert.equal(
    slots(['on', 'on', 'off'], ['on', 'on', 'off', 1, 'prune 0', 'split 1 into 2']),
    'prune 0, split 1 into 2',
  );
  assert.equal(slots(['on', 'on', 'off', 1, 'prune 0'], ['on', 'on', 'off']), 'taken back: prune 0');
  assert.equal(change({ path: LAYER, knob: 'capacity', from: 1.5, to: [1, 2] }), '1.5 → 1 2');
});

test('an event without a field that the page reads, or with another value there, is skipped', () => {
  const events = [startAt(), stepAt(1), evalAt(1), planAt(1, 1.5), recompileAt(2, true), doneAt(3)];
  const wild: unknown[] = [null, 'x', [], {}, [[1]], { a: null }, -1];
  let left = 0;
  for (const e of events) {
    assert.ok(parsed(JSON.stringify(e)), e.event);
    for (const key of Object.keys(e)) {
      for (const value of wild) {
        const event = parsed(JSON.stringify({ ...e, [key]: value }));
        if (event) new Run('run').add(event);
        else left++;
      }
    }
  }
  assert.ok(left > 50, `${left} were left out`);
});

const withRanks = (step: number, ranks: StepEvent['ranks']): LogEvent => ({ ...stepAt(step), ranks }) as LogEvent;

test('what ranks do is averaged over the last steps; the slowest has the most work of its own', () => {
  const run = new Run('run');
  run.add(startAt());
  assert.equal(run.rankMeans(), null);
  for (let i = 1; i <= 80; i++)
    run.add(withRanks(i, { ms: [10, 10], waited_ms: [i <= 30 ? 100 : 1, 4], sent: [5, 7] }));
  const means = run.rankMeans();
  assert.deepEqual(means, { steps: 50, ms: [10, 10], waited: [1, 4], sent: [5, 7] });
  assert.equal(means && slowestOf(means), 0);
  run.add(withRanks(81, { ms: [1, 2, 3, 4], waited_ms: [0, 0, 0, 0], sent: [1, 1, 1, 1] }));
  assert.equal(run.rankMeans()?.steps, 1);
  assert.equal(parsed(JSON.stringify({ ...stepAt(1), ranks: { ms: [1] } })), null);
});
