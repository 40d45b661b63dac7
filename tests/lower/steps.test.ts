// Kinds of steps: updates that cannot be written in place are planned as copies, which a schedule makes kernels;
// planner, verifier, printer and executor know collectives and calls of libraries, which no device runs yet.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UserError, VerifyError } from '../../src/base/errors.ts';
import { showDivided } from '../../src/base/shape.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { scalar } from '../../src/graph/tensor.ts';
import { verifyGraph } from '../../src/graph/verify.ts';
import { lower } from '../../src/lower/lower.ts';
import { optimise } from '../../src/passes/optimise.ts';
import { compileGraph } from '../../src/pipeline.ts';
import { plan } from '../../src/plan/plan.ts';
import { printProgram } from '../../src/plan/print.ts';
import type { Program, Step } from '../../src/plan/program.ts';
import { verifyProgram } from '../../src/plan/verify.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { GPU } from '../../src/schedule/gpu.ts';
import { ANYTHING, NATIVE } from '../../src/schedule/target.ts';
import type { Graph } from '../../src/graph/graph.ts';

/** A state whose new value is an output too, so that the kernel cannot write it into the state. */
function graphWithCopy(): Graph {
  const b = new GraphBuilder(ops),
    state = b.newState('s', { dtype: 'float32', shape: [8, 4] }),
    commit = b.input('input', 'commit', { dtype: 'int32', shape: [] }),
    next = mul(state, scalar(state, 2));
  b.output('next', next);
  b.update(state, next, commit);
  return b.build();
}

const planned = (): Program => plan(lower(optimise(graphWithCopy(), ops), ops, ANYTHING));

/** The program with its last step replaced. */
const withLast = (program: Program, change: (last: Step) => Step): Program => ({
  ...program,
  steps: program.steps.map((s, i) => (i === program.steps.length - 1 ? change(s) : s)),
});

test('an update that is not written in place is a copy step, and a kernel on a CPU and on a GPU', () => {
  const program = planned(),
    last = program.steps.at(-1);
  assert.ok(last?.kind === 'copy' && last.writes.join() === 'true,false' && last.unless !== null);
  verifyProgram(program);
  assert.match(printProgram(program), / copy update \(>%/);
  for (const target of [NATIVE, GPU]) {
    const { program: scheduled, kernels } = compileGraph(graphWithCopy(), target),
      copy = scheduled.steps.at(-1);
    assert.ok(copy?.kind === 'kernel' && kernels.some((k) => k.key === copy.kernel), target.kind);
  }
});

test('a copy between tensors of different sizes is refused', () => {
  const program = planned(),
    { buffers } = program.steps[program.steps.length - 1],
    tensors = program.tensors.map((t, i) => (i === buffers[1] ? { ...t, bytes: t.bytes / 2 } : t));
  assert.throws(
    () => verifyProgram({ ...program, tensors }),
    (e: unknown) => e instanceof VerifyError && /copies between/.test(e.message),
  );
});

test('a collective runs alone', () => {
  const program = planned();
  const collective =
    (alone: boolean) =>
    (last: Step): Step => {
      const { buffers, writes, barrier, unless, ops: names, scope, flops } = last;
      return {
        kind: 'collective',
        collective: 'joinRanks',
        ints: [],
        ...{ buffers, writes, barrier: barrier && alone, unless, ops: names, scope, flops },
      };
    };
  const own = verifyProgram(withLast(program, collective(true)));
  assert.match(printProgram(own), / joinRanks update/);
  assert.throws(
    () => verifyProgram(withLast(program, collective(false))),
    (e: unknown) => e instanceof VerifyError && /runs beside a collective/.test(e.message),
  );
});

test('a device refuses the kinds of steps that it does not run', async () => {
  const device = await WasmDevice.open(1),
    executor = new ProgramExecutor(device),
    { program, kernels } = compileGraph(graphWithCopy(), device.target);
  try {
    await device.compile(kernels);
    const { buffers, writes, barrier, unless, ops: names, flops } = program.steps[0];
    const exchange: Step = {
      kind: 'collective',
      collective: 'exchangeRows',
      ints: [4, 8, 0, 8],
      scope: 'layers.0.moe',
      ...{ buffers, writes, barrier, unless, ops: names, flops },
    };
    executor.setState('s', { dtype: 'float32', shape: [8, 4] }, null);
    const call = (last: Step): Step => ({ ...last, kind: 'call', library: 'cublasLt', function: 'matmul' });
    assert.match(printProgram(withLast(program, call)), / cublasLt\.matmul update/);
    const inPanels = { ...program, states: program.states.map((s) => ({ ...s, layout: 'panels' as const })) };
    assert.throws(() => executor.load(inPanels), /the state s lies in rows, a program expects it in panels/);
    assert.throws(
      () => executor.load(withLast(program, call)),
      (e: unknown) => e instanceof VerifyError && /runs no call steps/.test(e.message),
    );
    assert.throws(
      () => executor.load(withLast(program, () => exchange)),
      (e: unknown) =>
        e instanceof UserError &&
        /^step \d+ \(exchangeRows in layers\.0\.moe\): the device wasm was opened without ranks/.test(e.message),
    );
  } finally {
    await executor.close();
  }
});

test('axes are printed, and must be as many as dimensions', () => {
  const type = { dtype: 'float32', shape: [8, 4], axes: ['expert', null] } as const;
  assert.equal(showDivided(type), 'float32[8@expert, 4]');
  const graph = graphWithCopy();
  assert.throws(
    () =>
      verifyGraph({ ...graph, types: graph.types.map((t) => ({ ...t, axes: ['batch', null, null] })) }, ops, 'test'),
    (e: unknown) => e instanceof VerifyError && /has 2 dimensions and 3 axes/.test(e.message),
  );
});
