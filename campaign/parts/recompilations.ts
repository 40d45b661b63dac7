// Recompilations at random steps, by random rules with random knobs; a quarter of them are made to fail. A change that
// leaves results unchanged must keep every bit. A recompilation that fails must change nothing. A change that changes
// results must give the same results on every device, however long compilation takes.
import fc from 'fast-check';
import { UserError } from '../../src/base/errors.ts';
import { Stream } from '../../src/base/random.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { policies } from '../../src/recompile/policies/select.ts';
import type { RecompileEvent, Rule } from '../../src/recompile/rule.ts';
import { compile } from '../../src/session/node.ts';
import type { Precision } from '../../src/session/platform.ts';
import type { Session } from '../../src/session/session.ts';
import type { HostTensor } from '../../src/base/tensor.ts';
import { fingerprint, toyBatch } from '../../tests/support/toy.ts';
import { assertPromise, type Part, type AttackContext } from '../part.ts';
import { beyond } from '../support/random-model.ts';
import { places, type Place } from '../support/small-run.ts';

/** How a rule is made to fail; null if it is not. */
type Fails = 'alter' | 'compile' | 'verify' | 'memory' | null;
interface Change {
  readonly block: number;
  readonly knob: string;
  readonly value: string | number | boolean | readonly number[];
}
interface Drawn {
  readonly at: number;
  readonly changes: readonly Change[];
  readonly fails: Fails;
  readonly measure: boolean;
}

interface Case {
  /**
   * neutral: rules that leave results unchanged, some of which fail. failing: a rule that would change results, and
   * fails. results: rules that change results.
   */
  readonly kind: 'neutral' | 'failing' | 'results';
  readonly capacity: 'dropless' | number;
  readonly overflow: 'drop' | 'spill';
  readonly dispatch: 'ragged' | 'padded';
  readonly dropout: number;
  /** Absent in cases from before there was a choice. */
  readonly precision?: Precision;
  readonly seed: number;
  readonly rules: readonly Drawn[];
  readonly policies: string;
  readonly place: Place;
  readonly other: Place;
}

const of = (knob: string, ...values: readonly Change['value'][]): fc.Arbitrary<Change> =>
  fc.record({ block: fc.nat(1), knob: fc.constant(knob), value: fc.constantFrom(...values) });
const change = fc.oneof(
  of('dispatch', 'ragged', 'padded', 'padded', 'dense', 'einsum'),
  of('capacity', 'dropless', 0.25, 0.5, 1, 1.5, 3, [2, 1, 0.5, 0.5]),
  of('overflow', 'drop', 'spill'),
  of('priority', 'position', 'choice', 'probs'),
  of('topK', 1, 2, 3),
  of('frozen', true, false),
  of('expertRows', 0, 4, 64, 512),
  of('recompute', true, false),
  of('chunks', 1, 2, 4),
  of('gateFrozen', true, false),
  of('split', 1, 3),
  of('block', true, false),
);
const drawn = (fails: fc.Arbitrary<Fails>): fc.Arbitrary<Drawn> =>
  fc.record({
    at: fc.integer({ min: 2, max: 30 }),
    changes: fc.array(change, { minLength: 1, maxLength: 4 }),
    fails,
    measure: fc.boolean(),
  });
const common = {
  capacity: fc.constantFrom<('dropless' | number)[]>('dropless', 0.5, 1, 2),
  overflow: fc.constantFrom<('drop' | 'spill')[]>('drop', 'spill'),
  dispatch: fc.constantFrom<('ragged' | 'padded')[]>('ragged', 'padded'),
  dropout: fc.constantFrom(0, 0.1),
  precision: fc.constantFrom<Precision[]>('float32', 'float32', 'bfloat16', 'bfloat16-weights'),
  seed: fc.nat(1000),
  place: places(),
  other: places(),
};
const FAILURES = ['alter', 'compile', 'verify', 'memory'] as const;

export const recompilations: Part<Case> = {
  name: 'recompilations',
  promise:
    'a recompilation that leaves results unchanged keeps every bit, one that fails changes nothing, ' +
    'and one that changes results gives the same results on every device',
  share: 3,
  limit: 120,
  knownFaults: ['wrong-plan'],
  cases: fc.oneof(
    {
      weight: 3,
      arbitrary: fc.record({
        kind: fc.constant('neutral' as const),
        ...common,
        rules: fc.array(drawn(fc.constantFrom<Fails[]>(null, null, ...FAILURES)), { minLength: 1, maxLength: 4 }),
        policies: fc.constantFrom('off', 'auto'),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant('failing' as const),
        ...common,
        rules: fc.array(drawn(fc.constantFrom<Fails[]>(...FAILURES)), { minLength: 1, maxLength: 1 }),
        policies: fc.constant('off'),
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({
        kind: fc.constant('results' as const),
        ...common,
        rules: fc.array(drawn(fc.constant<Fails>(null)), { minLength: 1, maxLength: 4 }),
        policies: fc.constantFrom('off', 'adaptCapacity', 'sparsify,adaptCapacity', 'expertLifecycle'),
      }),
    },
  ),
  attack,
};

const STEPS = 70;

interface Ran {
  readonly losses: readonly number[];
  readonly states: Readonly<Record<string, string>>;
  readonly knobs: string;
  readonly events: readonly RecompileEvent[];
  /** Whether the failure of a rule occurred: a plan that needs no dry run cannot fail in it. */
  readonly failed: boolean;
}

function outcome(e: RecompileEvent): string {
  if (e.error !== undefined) return 'that failed';
  if (!e.kept) return 'undone or of no effect';
  return e.class === 'R' ? 'that changed results' : 'that kept results';
}

async function attack(given: Case, context: AttackContext): Promise<void> {
  const ran = await run(given, given.place, given.rules, 0, context.knownFault === 'wrong-plan');
  for (const e of ran.events) context.count(`recompilations ${outcome(e)}`);
  if (given.kind === 'results') {
    const other = await run(given, given.other, given.rules, 60);
    equal(
      'changes of results are the same on every device, however long compilation takes',
      ran,
      other,
      `${where(given.place)} and ${where(given.other)}`,
    );
    return;
  }
  // A change of results whose failure never occurred takes effect as it would without one.
  const occurred = given.kind === 'neutral' || ran.failed || ran.events.every((e) => !e.kept),
    rules = occurred ? [] : given.rules.map((rule) => ({ ...rule, fails: null })),
    plain = await run({ ...given, policies: 'off' }, given.place, rules, 0);
  if (!occurred) context.count('failures that had no occasion');
  equal(
    given.kind === 'neutral'
      ? 'a recompilation that leaves results unchanged keeps every bit'
      : 'a recompilation that fails changes nothing',
    plain,
    ran,
    occurred ? 'without rules and with them' : 'rules that cannot fail and of rules whose failure did not occur',
  );
  if (given.kind === 'failing')
    assertPromise(
      'a recompilation that fails changes nothing',
      !ran.failed || ran.events.every((e) => !e.kept),
      () => `it failed and was kept: ${JSON.stringify(ran.events)}`,
    );
  for (const e of ran.events) {
    const rule = given.rules[Number(e.rule.slice(5))] as Drawn | undefined;
    if (given.rules.every(({ fails }) => fails !== 'verify'))
      assertPromise(
        'a plan that is said to leave results unchanged does so',
        e.error?.includes('does not agree') !== true,
        () => `the verification refused it: ${JSON.stringify(e)}`,
      );
    if (rule?.fails === 'alter')
      assertPromise(
        'a recompilation that fails changes nothing',
        !e.kept && e.error !== undefined,
        () => `its alter threw and it was kept: ${JSON.stringify(e)}`,
      );
  }
  if (given.kind === 'failing' && occurred)
    assertPromise(
      'a recompilation that fails changes nothing',
      plain.knobs === ran.knobs,
      () => `the knobs are ${ran.knobs}, not ${plain.knobs}`,
    );
}

const where = ({ device, threads }: Place): string => `${device} with ${threads} threads`;

function equal(promise: string, want: Ran, got: Ran, what: string): void {
  const at = want.losses.findIndex((loss, i) => loss !== got.losses[i]),
    told = (): string =>
      got.events
        .map(
          (e) =>
            `${e.rule} ${e.class} decided at ${e.step}, effect ${e.effect}, ${e.kept ? 'kept' : (e.error ?? 'undone')}`,
        )
        .join('; ');
  assertPromise(
    promise,
    at < 0,
    () => `the losses of ${what} differ from step ${at + 1} on: ${want.losses[at]} and ${got.losses[at]} (${told()})`,
  );
  // The states for gradient sums, once created, stay and contain zeros.
  const value = ({ states }: Ran, name: string): string =>
    states[name] ??
    (name.startsWith('optim/sum/') ? (want.states[name] ?? got.states[name]).replaceAll(/[^=]/g, 'A') : 'none');
  const wrong = Object.keys({ ...want.states, ...got.states }).filter((name) => value(want, name) !== value(got, name));
  assertPromise(
    promise,
    wrong.length === 0,
    () => `the values of ${what} differ after ${STEPS} steps: ${wrong.slice(0, 4).join(', ')} (${told()})`,
  );
}

/**
 * compileMs: the longest random delay of a compilation. wrong: inserts a known fault; after the first decision of a
 * rule, losses have a flipped last bit.
 */
async function run(
  given: Case,
  { device, threads }: Place,
  rules: readonly Drawn[],
  compileMs: number,
  wrong = false,
): Promise<Ran> {
  const { capacity, overflow, dispatch, dropout, seed } = given,
    events: RecompileEvent[] = [],
    armed = new Set<string>(),
    losses: number[] = [];
  let failed = false;
  const model = new TransformerLM({
    vocab: 17,
    dModel: 16,
    layers: 2,
    heads: 2,
    context: 12,
    dropout,
    moe: { experts: 4, topK: 2, hidden: 24, capacity, ...beyond(capacity, overflow), dispatch },
  });
  const session = await compile(model, {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-2 }),
    device,
    threads,
    seed,
    precision: given.precision ?? 'float32',
    memory: 256e6,
    observe: true,
    say: () => undefined,
    events: (e) => {
      events.push(e);
      armed.delete(e.rule);
    },
  });
  try {
    await session.step(toyBatch(0, 6)).then(({ loss }) => losses.push(loss));
    const fails = (how: Fails): boolean => {
      const now = [...armed].some((name) => rules[Number(name.slice(5))].fails === how);
      failed ||= now;
      return now;
    };
    breakBeneath(session, fails, compileMs);
    rules.forEach((rule, i) => {
      session.recompile(
        ruleOf(rule, `rule ${i}`, given.kind === 'neutral', () => {
          armed.add(`rule ${i}`);
          failed ||= rule.fails === 'alter';
        }),
      );
    });
    for (const rule of policies(given.policies)) session.recompile(rule);
    while (losses.length < STEPS) {
      const { loss } = await session.step(toyBatch(losses.length, 6));
      losses.push(wrong && events.length > 0 ? loss * (1 + Number.EPSILON) : loss);
    }
    return { losses, states: fingerprint(session), knobs: JSON.stringify(session.plan().knobs), events, failed };
  } finally {
    await session.close();
  }
}

function ruleOf(
  { at, changes, fails, measure }: Drawn,
  name: string,
  neutral: boolean,
  arm: () => void,
): Rule<TransformerLM> {
  return {
    name,
    budget: 1,
    measure,
    ...(neutral && { only: 'N' as const }),
    trigger: (run) => run.step >= at,
    alter: (m, _, outlook) => {
      arm();
      for (const { block, knob, value } of changes) {
        const b = m.blocks[block];
        if (knob === 'block') b.recompute = value === true;
        else if (knob === 'split') {
          if (outlook?.session) outlook.session.split = Number(value);
        } else (b.moe as unknown as Record<string, unknown>)[knob] = value;
      }
      if (fails === 'alter') throw new Error('an alter that throws');
    },
  };
}

interface Machine {
  device: { compile(kernels: unknown): Promise<void> };
  reserve(program: unknown): void;
  run(program: unknown, inputs: Record<string, Int32Array | undefined>): Promise<Record<string, HostTensor>>;
}

/** Makes compilers, memory allocation and checks of plans fail while `fails` returns true for them. */
function breakBeneath(session: Session, fails: (how: Fails) => boolean, compileMs: number): void {
  const executor = session.executor as unknown as Machine,
    { device } = executor,
    stream = new Stream(7, 'compilers');
  const compileReal = device.compile.bind(device),
    reserve = executor.reserve.bind(executor),
    runReal = executor.run.bind(executor);
  let n = 0;
  device.compile = async (kernels) => {
    if (fails('compile')) throw new Error('a compiler that fails');
    if (compileMs > 0)
      await new Promise((resolve) => {
        setTimeout(resolve, compileMs * stream.uniform(0, n++));
      });
    return compileReal(kernels);
  };
  executor.reserve = (program) => {
    if (fails('memory')) throw new UserError('memory that fails');
    reserve(program);
  };
  executor.run = async (program, inputs) => {
    const out = await runReal(program, inputs);
    if (inputs['commit']?.[0] === 0 && 'loss' in out && fails('verify')) out['loss'].data[0] = NaN;
    return out;
  };
}
