// Tests `dynamoe inspect`: it prints every stage for each device, and prints what a session compiles and runs.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { printStage, STAGES } from '../../src/cli/stages.ts';
import { F64, Func, I32, ModuleWriter } from '../../src/emit/wasm/binary.ts';
import { moduleText } from '../../src/emit/wasm/text.ts';
import { printGraph } from '../../src/graph/print.ts';
import type { Program } from '../../src/plan/program.ts';
import { printProgram } from '../../src/plan/print.ts';
import { compileGraph } from '../../src/pipeline.ts';
import { WASM } from '../../src/schedule/target.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { configure } from '../../src/train/configure.ts';
import { exampleBatch } from '../../src/train/example-batch.ts';
import { openSession } from '../../src/train/open.ts';
import { command, TINY } from './command.ts';

const TINY_FLAGS = { layers: 1, dModel: 16, heads: 2, context: 16, experts: 4, dFf: 16, batch: 4 };

test('every stage prints the graph that a session compiles', async () => {
  const { experiment } = await configure(undefined, TINY_FLAGS);
  const batch = await exampleBatch(experiment, true);
  const session = await openSession(experiment, { device: 'reference', memory: Infinity, say: () => undefined });
  const graph = session.trainGraph(batch);
  await session.close();
  const text = Object.fromEntries(STAGES.map((stage) => [stage, printStage(graph, stage)]));
  for (const stage of STAGES) assert.ok(text[stage].length > 100, stage);
  assert.match(text['passes'], /# after the pass 'share equal nodes'\n%0: /);
  assert.equal(text['graph'], printGraph(compileGraph(graph).graph), 'the graph that is lowered');
  assert.ok(text['passes'].includes(text['graph']), 'the last pass gives it');
  assert.match(text['storage'], /# stored$/m);
  assert.match(text['storage'], /# computed by its readers?$/m);
  assert.match(text['groups'], /^group 0: /);
  assert.match(text['groups'], /# not stored$/m);
  assert.match(text['source'], /^#include "runtime.h"/);

  const loaded: Program[] = [];
  const { load } = ProgramExecutor.prototype;
  ProgramExecutor.prototype.load = function (program, ...rest) {
    loaded.push(program);
    return load.call(this, program, ...rest);
  };
  try {
    const running = await openSession(experiment, { device: 'wasm', memory: 2 ** 28, say: () => undefined });
    await running.step(batch);
    await running.close();
  } finally {
    ProgramExecutor.prototype.load = load;
  }
  assert.ok(
    loaded.map(printProgram).includes(printStage(graph, 'program', 'wasm')),
    'the printed program is the one that the session has run',
  );
});

test('the source of the wasm device is WebAssembly text of all kernels', async () => {
  const { experiment } = await configure(undefined, TINY_FLAGS);
  const session = await openSession(experiment, { device: 'reference', memory: Infinity, say: () => undefined });
  const graph = session.trainGraph(await exampleBatch(experiment, true));
  await session.close();
  const text = printStage(graph, 'source', 'wasm');
  const { kernels } = compileGraph(graph, WASM);
  assert.ok(kernels.length > 10);
  kernels.forEach(({ key, kernel }, i) => {
    assert.ok(text.includes(`;; functions whose names end in ${i}: kernel ${key.slice(0, 8)}\n`));
    const names = kernel.form === 'loops' ? ['extent', 'run'] : ['packA', 'packB', 'store'];
    for (const name of names) assert.ok(text.includes(`(func (export "${name}${i}") (param i32`), `${name}${i}`);
  });
  assert.match(text, /\(import "env" "memory" \(memory 1 65536 shared\)\)/);
  for (const part of ['f32x4.relaxed_madd', 'v128.const i32x4', 'local.tee', 'br_if 0', 'v128.load align=4'])
    assert.ok(text.includes(part), part);
  const count = (word: RegExp): number => text.match(word)?.length ?? 0;
  assert.equal(count(/^ *end$/gm), count(/^ *(if|loop)$/gm), 'each block has an end');
  assert.equal(count(/\(/g), count(/\)/g));
});

test('constants and shuffles are printed with their values', () => {
  const module = new ModuleWriter([{ name: 'pow', params: [F64, F64], results: [F64] }]);
  const f = new Func([I32], [F64]);
  for (const n of [0, -1, 63, 64, -64, -65, 2 ** 31 - 1, -(2 ** 31)]) f.i32(n).set(f.local(I32));
  f.f32(-0).f32(Infinity).f32(0.5).f64(1e-300).f64(NaN).call(module.imported('pow')).v128([1, -2, 3, -4]);
  f.shuffle(...Array.from({ length: 16 }, (_, i) => 15 - i))
    .truncate(3)
    .memoryLane('v128.load32_lane', 2, 300);
  module.add(f, 'f');
  const text = moduleText(module.bytes({ shared: false, pages: 2 }));
  assert.match(text, /\(memory 1 2\)\)/);
  assert.match(text, /\(func \$pow \(param f64 f64\) \(result f64\)\)/);
  assert.deepEqual(
    [...text.matchAll(/i32\.const (\S+)/g)].map((m) => Number(m[1])),
    [0, -1, 63, 64, -64, -65, 2 ** 31 - 1, -(2 ** 31)],
  );
  for (const line of [
    'f32.const -0',
    'f32.const inf',
    'f32.const 0.5',
    'f64.const 1e-300',
    'f64.const nan',
    'call $pow',
    'v128.const i32x4 1 -2 3 -4',
    'i8x16.shuffle 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1 0',
    'i32.trunc_sat_f64_u',
    'v128.load32_lane offset=300 align=4 2',
  ])
    assert.ok(text.includes(`    ${line}\n`), line);
});

test('--device is accepted only with --stage schedule and --stage source', async () => {
  const wasm = await command('inspect', '--stage', 'source', '--device', 'wasm', ...TINY);
  assert.equal(wasm.code, 0, wasm.stderr);
  assert.match(wasm.stdout, /^;; functions whose names end in 0: kernel /);
  const refused = await command('inspect', '--stage', 'kernels', '--device', 'wasm', ...TINY);
  assert.equal(refused.code, 2);
  assert.match(
    refused.stderr,
    /--device has no effect here: only --stage schedule and --stage source depend on the device/,
  );
  const gpu = await command('inspect', '--stage', 'schedule', '--device', 'cuda', ...TINY);
  assert.equal(gpu.code, 0, gpu.stderr);
  assert.match(gpu.stdout, /^[0-9a-f]{8} threads \(b0: /);
  assert.match(gpu.stdout, /thread\d+ < 256, \d+ bytes shared:/);
  const source = await command('inspect', '--stage', 'source', '--device', 'cuda', ...TINY);
  assert.equal(source.code, 0, source.stderr);
  assert.match(source.stdout, /^DM_KERNEL\(k_[0-9a-f]+, 256, \d+\) \{$/m);
});

test('the program names its states: type, role and layout, in training and in evaluation', async () => {
  const { experiment } = await configure(undefined, { ...TINY_FLAGS, accumulate: 2 });
  const batch = await exampleBatch(experiment, true);
  const session = await openSession(experiment, { device: 'reference', memory: Infinity, say: () => undefined });
  const training = session.trainGraph(batch, 'apply'),
    evaluation = session.evaluationGraph(batch);
  await session.close();
  const states = (text: string): string[] => text.split('\nstates\n')[1].split('\n\n')[0].split('\n');
  const trained = states(printStage(training, 'program'));
  for (const line of [
    /^ {2}"head\.weight" float32\[\d+, \d+\] head, in rows \d/,
    /^ {2}"embedding\.weight" float32\[\d+, \d+\] embedding, in rows /,
    /^ {2}"blocks\.0\.moe\.router\.weight" float32\[\d+, \d+\] router, in rows /,
    /^ {2}"norm\.gain" float32\[\d+\] gain, in rows /,
    /^ {2}"optim\/m\/head\.weight" float32\[\d+, \d+\] moment, in rows /,
    /^ {2}"optim\/sum\/head\.weight" float32\[\d+, \d+\] sum, in rows /,
  ])
    assert.ok(
      trained.some((l) => line.test(l)),
      `${line} in\n${trained.join('\n')}`,
    );
  assert.ok(trained.every((l) => l.includes(', in rows ')));
  assert.match(printStage(training, 'graph'), /= state "norm\.gain" {3}# gain, in rows$/m);
  // The evaluation program of a session that does not train: native products read panels, WebAssembly's read rows.
  const panels = (device: 'native' | 'wasm'): string[] =>
    states(printStage(evaluation, 'program', device, false)).filter((l) => l.includes(', in panels '));
  assert.ok(panels('native').some((l) => l.includes('"head.weight"')));
  assert.deepEqual(panels('wasm'), []);
});
