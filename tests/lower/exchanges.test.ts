// Exchanges between ranks that go on while other steps run: what runs meanwhile, and that nothing uses their memory.
import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { compile, loss, nn, optim } from '../../src/index.ts';
import { VerifyError } from '../../src/base/errors.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { addOps, ops } from '../../src/graph/ops/index.ts';
import { gatherRanks } from '../../src/graph/ops/ranks/gatherRanks.ts';
import { rankOps } from '../../src/graph/ops/ranks/index.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { rankStages } from '../../src/device/native/rank-stages.ts';
import { compileGraph } from '../../src/pipeline.ts';
import type { CollectiveStep, Program, Step } from '../../src/plan/program.ts';
import { overlap } from '../../src/plan/overlap.ts';
import { printProgram } from '../../src/plan/print.ts';
import { verifyProgram } from '../../src/plan/verify.ts';
import { NATIVE } from '../../src/schedule/target.ts';
import { call } from '../../src/trace/trace.ts';

const WIDTH = 256,
  TOKENS = 2048;

class Net {
  readonly first = new nn.Linear(WIDTH, WIDTH);
  readonly moe = new nn.MoE({ dModel: WIDTH, experts: 8, topK: 2, hidden: 1024, balance: 0.01 });
  readonly last = new nn.Linear(WIDTH, WIDTH);
  forward(x: Tensor): Tensor {
    const h = call(this.first, x);
    return call(this.last, add(h, call(this.moe, h)));
  }
}

let program: Program;

before(async () => {
  const session = await compile(new Net(), {
      device: 'reference',
      loss: loss.meanSquaredError,
      optimizer: optim.adamW({ lr: 1e-3, clip: 1 }),
      seed: 1,
    }),
    data = { dtype: 'float32', shape: [TOKENS, WIDTH], data: new Float32Array(TOKENS * WIDTH) } as const,
    graph = session.trainGraph({ x: data, y: data });
  program = compileGraph(graph, { ...NATIVE, ranks: rankStages(2) }).program;
  await session.close();
});

interface Exchange {
  readonly begin: number;
  readonly wait: number;
  readonly step: CollectiveStep;
}

const isCollective = (s: Step): s is CollectiveStep => s.kind === 'collective';

/** The exchanges that do not run alone. */
const exchanges = ({ steps }: Program): Exchange[] =>
  steps.flatMap((s, wait) =>
    isCollective(s) && s.phase === 'wait' ? [{ begin: s.begunBy ?? -1, wait, step: s }] : [],
  );

/** The program with one step replaced; no step: it is left out. */
const withStep = (at: number, ...step: Step[]): Program => ({
  ...program,
  steps: [...program.steps.slice(0, at), ...step, ...program.steps.slice(at + 1)],
});

const refuses = (changed: Program, message: RegExp): void => {
  assert.throws(
    () => verifyProgram(changed),
    (e: unknown) => e instanceof VerifyError && message.test(e.message),
  );
};

test('gradients of weights are computed while gradients of tokens are on their way', () => {
  const meanwhile = exchanges(program).flatMap(({ begin, wait, step }) =>
    step.collective === 'exchangeRows' ? program.steps.slice(begin, wait).flatMap((s) => s.ops) : [],
  );
  assert.ok(meanwhile.includes('groupedOuter'), 'of experts');
  assert.ok(meanwhile.includes('matmul'), 'of the layer after the experts');
  const joined = exchanges(program).filter(({ step }) => step.collective === 'joinRanks');
  assert.ok(joined.length >= 2);
  assert.match(printProgram(program), / begin joinRanks joinRanks /);
  assert.match(printProgram(program), / wait \d+ joinRanks /);
});

test('products of experts compute while rows come or go', () => {
  const bySlot = program.steps.flatMap((s, at) => (s.kind === 'kernel' && s.bySlot ? [{ ...s.bySlot, at }] : []));
  assert.deepEqual(
    bySlot.map(({ slots, groups }) => `${slots} ${groups}`),
    ['come 4', 'go 4', 'come 4', 'go 4'],
  );
  for (const { exchange, slots, at } of bySlot) {
    const begin = program.steps[exchange],
      waits = program.steps.findIndex((s) => isCollective(s) && s.phase === 'wait' && s.begunBy === exchange);
    assert.ok(isCollective(begin) && begin.slots === slots && exchange < at && at < waits);
  }
  assert.match(printProgram(program), / slots of \d+ come live /);
  const [{ at }] = bySlot,
    step = program.steps[at];
  assert.ok(step.kind === 'kernel' && step.bySlot);
  refuses(withStep(at, { ...step, bySlot: { ...step.bySlot, slots: 'go' } }), /runs slot by slot beside an exchange/);
  const { bySlot: _, ...whole } = step;
  refuses(withStep(at, whole), /uses memory of the exchange/);
});

test('the memory of an exchange is kept until a step has waited for it', () => {
  for (const { begin, wait, step } of exchanges(program))
    for (const t of step.buffers) {
      const own = program.tensors[t];
      assert.ok(own.last >= wait, `${own.name} of step ${begin}`);
      for (const other of program.tensors)
        if (other !== own && other.slab === 'arena' && other.first > begin && other.first < wait)
          assert.ok(!overlap(own, other), `${other.name} lies where ${own.name} does`);
    }
});

test('a program may begin with an exchange', () => {
  const b = new GraphBuilder(ops),
    x = b.input('input', 'x', { dtype: 'float32', shape: [8] });
  addOps(rankOps);
  b.output('all', gatherRanks(x, { ranks: 2, axis: 'batch' }));
  assert.deepEqual(
    compileGraph(b.build()).program.steps.map((s) => s.kind),
    ['collective'],
  );
});

test('the verifier refuses what an exchange that goes on does not allow', () => {
  const [{ begin, wait, step }] = exchanges(program).filter(({ step: { collective } }) => collective === 'joinRanks'),
    result = step.buffers[step.writes.indexOf(true)],
    operand = step.buffers[0];
  assert.ok(wait > begin + 1);
  refuses(withStep(wait), /uses memory of the exchange that step \d+ has begun/);
  refuses(withStep(wait, { ...step, begunBy: 0 }), /waits for an exchange that has not begun/);
  refuses(
    withStep(wait, { ...step, buffers: [...step.buffers].reverse() }),
    /waits for an exchange that has not begun/,
  );
  const middle = program.steps[begin + 1],
    using = (t: number, written: boolean): Program =>
      withStep(begin + 1, { ...middle, buffers: [...middle.buffers, t], writes: [...middle.writes, written] });
  refuses(using(result, false), /uses memory of the exchange that step \d+ has begun/);
  refuses(using(operand, true), /uses memory of the exchange that step \d+ has begun/);
});
