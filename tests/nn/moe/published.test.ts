// Numbers that other projects publish (shared/reference): which choices are kept under a capacity, balance and z
// losses, and the training losses of Tutel's layer.
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';
import { hostTensor } from '../../../src/base/tensor.ts';
import { GraphBuilder } from '../../../src/graph/builder.ts';
import { ops } from '../../../src/graph/ops/index.ts';
import { crossEntropy } from '../../../src/graph/ops/reduce/crossEntropy.ts';
import { reshape } from '../../../src/graph/ops/shape/reshape.ts';
import { softmax } from '../../../src/graph/ops/reduce/softmax.ts';
import { mean, sum } from '../../../src/graph/ops/reduce/sum.ts';
import { topK } from '../../../src/graph/ops/reduce/topK.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import { balanceLoss, zLoss } from '../../../src/nn/moe/losses.ts';
import { MoE } from '../../../src/nn/moe/moe.ts';
import { route, type Priority } from '../../../src/nn/moe/routing.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { evaluate } from '../../../src/run/reference.ts';
import { compile } from '../../../src/session/node.ts';
import { Trace } from '../../../src/trace/trace.ts';
import { call } from '../../../src/trace/trace.ts';
import { noCompiler } from '../../support/toy.ts';

const folder = fileURLToPath(new URL('../../../../shared/reference', import.meta.url));
const skip = !existsSync(join(folder, 'routing.json')) && `needs ${folder}`;
const read = (name: string): unknown => JSON.parse(readFileSync(join(folder, name), 'utf8'));

interface Routing {
  readonly topk_capacity: { readonly logits: number[][]; readonly k: number; readonly capacity: number } & Readonly<
    Record<'probs' | 'position', number[][]>
  >;
  readonly switch_balance_loss: { readonly probs: number[][]; readonly expert: number[]; readonly loss: number };
  readonly router_z_loss: { readonly logits: number[][][]; readonly loss: number };
}

/** The values of tensors that `build` makes from constants. */
function valuesOf(
  build: (t: Trace, constant: (rows: readonly (readonly number[])[]) => Tensor) => readonly Tensor[],
): number[][] {
  const t = new Trace(ops, { parameters: new Map(), paths: new Map() }, true);
  const built = build(t, (rows) =>
    t.constant({ dtype: 'float32', shape: [rows.length, rows[0].length] }, Float32Array.from(rows.flat())),
  );
  assert.ok(t instanceof GraphBuilder);
  const values = evaluate(t.build(), ops, ({ data }) => Float64Array.from(data ?? []));
  return built.map((b) => Array.from(values[b.id]));
}

for (const priority of ['probs', 'position'] as const satisfies readonly Priority[]) {
  test(`DeepSpeed: tokens kept within capacity by ${priority}`, { skip }, () => {
    const { logits, k, capacity, ...kept } = (read('routing.json') as Routing).topk_capacity,
      [tokens, experts] = [logits.length, logits[0].length];
    const [indices, inverse, offsets] = valuesOf((_, constant) => {
      const best = topK(softmax(constant(logits)), k);
      const { rows } = route(best.indices, {
        experts,
        capacity: (capacity * experts) / (tokens * k),
        priority,
        scores: best.values,
      });
      return [best.indices, rows.inverse, rows.offsets];
    });
    const got = inverse.flatMap((row, c) =>
      row < 0 ? [] : [[Math.floor(c / k), indices[c], row - offsets[indices[c]]]],
    );
    assert.deepEqual(
      got.sort((a, b) => a[0] - b[0] || a[1] - b[1]),
      kept[priority],
    );
  });
}

test('Hugging Face: the losses of Switch and ST-MoE', { skip }, () => {
  const { switch_balance_loss: b, router_z_loss: z } = read('routing.json') as Routing;
  const [[balance], [router]] = valuesOf((t, constant) => {
    const load = t.constant(
      { dtype: 'int32', shape: [2] },
      Int32Array.from([0, 1], (e) => b.expert.filter((x) => x === e).length),
    );
    return [balanceLoss(constant(b.probs), load, b.expert.length), zLoss(constant(z.logits.flat()))];
  });
  assert.ok(Math.abs(balance - b.loss) < 1e-5, `${balance}`);
  assert.ok(Math.abs(router - z.loss) < 1e-5, `${router}`);
});

/** MT19937 (Matsumoto & Nishimura 1998). */
function mersenne(seed: number): () => number {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = 624;
  return () => {
    if (at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    y ^= y >>> 18;
    return y >>> 0;
  };
}
const unit = (next: () => number): number => (next() & 0xffffff) / 0x1000000;
const draw = (next: () => number, n: number, bound: number): Float32Array =>
  Float32Array.from({ length: n }, () => (2 * unit(next) - 1) * bound);

/** The transpose of a [rows, columns] matrix. */
function transposed(w: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(w.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = w[r * columns + c];
  return out;
}

/** Normal random numbers as torch draws them: in blocks of 16. */
function torchNormals(n: number): Float32Array {
  const next = mersenne(0),
    out = new Float32Array(n),
    u = new Float32Array(16),
    f = Math.fround;
  for (let i = 0; i < n; i += 16) {
    for (let j = 0; j < 16; j++) u[j] = unit(next);
    for (let j = 0; j < 8; j++) {
      const r = f(Math.sqrt(f(-2 * f(Math.log(f(1 - u[j])))))),
        a = f(2 * Math.PI * u[j + 8]);
      out[i + j] = f(r * f(Math.cos(a)));
      out[i + j + 8] = f(r * f(Math.sin(a)));
    }
  }
  return out;
}

const D = 2048,
  SAMPLE = 1024,
  SAMPLES = 16,
  BATCH = SAMPLE * SAMPLES;

/** The layer's output summed over its width: logits [samples, tokens of a sample]. */
class TutelModel {
  readonly moe: MoE;
  constructor(experts: number, k: number) {
    // Tutel's capacity is k * ceil(tokens / experts) rows, and first choices come before second ones.
    this.moe = new MoE({
      dModel: D,
      experts,
      topK: k,
      hidden: D,
      activation: 'relu',
      bias: true,
      capacity: 1,
      priority: 'choice',
      losses: {},
    });
  }
  forward(x: Tensor): Tensor {
    return reshape(sum(call(this.moe, x), [1]), [SAMPLES, SAMPLE]);
  }
}

// Tutel publishes 100 losses. PUBLISHED_LOSSES=100 npm run unit -- tests/nn/moe/published.test.ts compares all of them
// (it takes minutes) and prints the errors. A step of these layers takes seconds, so `npm test` compares two.
const steps = Number(process.env['PUBLISHED_LOSSES'] ?? (process.env['DYNAMOE_FULL'] === '1' ? 5 : 2));

for (const [experts, k] of [
  [1, 1],
  [2, 2],
])
  test(
    `Tutel: losses 1 to ${steps} of its layer, ${experts} experts, top-${k}`,
    { skip: skip || noCompiler },
    async (t) => {
      const expected = (read('tutel-losses.json') as Record<string, number[]>)[`fp32_top${k}_experts${experts}`];
      const first = (y: Tensor): Tensor => {
        const zero = y.builder.emit('constant', [], { value: 0, dtype: 'int32', shape: [SAMPLES] })[0];
        return mean(crossEntropy(y, zero));
      };
      await using session = await compile(new TutelModel(experts, k), {
        loss: first,
        optimizer: sgd({ lr: 1e-5 }),
        device: 'native',
        memory: 8 * 2 ** 30,
      });
      const next = mersenne(1),
        bound = 1 / Math.sqrt(D),
        parts: Record<string, Float32Array[]> = { w1: [], b1: [], w2: [], b2: [] };
      for (let e = 0; e < experts; e++) {
        parts['w1'].push(transposed(draw(next, D * D, bound), D, D));
        parts['b1'].push(draw(next, D, bound));
        parts['w2'].push(transposed(draw(next, D * D, bound), D, D));
        parts['b2'].push(draw(next, D, bound));
      }
      const joined = (list: readonly Float32Array[]): Float32Array => {
        const all = new Float32Array(list.length * list[0].length);
        list.forEach((p, i) => {
          all.set(p, i * p.length);
        });
        return all;
      };
      const gate = transposed(draw(mersenne(1), experts * D, bound), experts, D);
      const start = (name: string, shape: number[], data: Float32Array) => ({
        name: `moe.${name}`,
        value: hostTensor('float32', shape, data),
      });
      await session.restore(0, [
        start('experts.w1', [experts, D, D], joined(parts['w1'])),
        start('experts.b1', [experts, D], joined(parts['b1'])),
        start('experts.w2', [experts, D, D], joined(parts['w2'])),
        start('experts.b2', [experts, D], joined(parts['b2'])),
        start('router.weight', [D, experts], gate),
      ]);
      const x = hostTensor('float32', [BATCH, D], torchNormals(BATCH * D)),
        batch = { x, y: hostTensor('int32', [SAMPLES], new Int32Array(SAMPLES)) };
      const errors: number[] = [];
      for (let i = 0; i < steps; i++) {
        const { loss } = await session.step(batch),
          error = Math.abs(loss / expected[i] - 1);
        errors.push(error);
        assert.ok(
          error < (i === 0 ? 2e-6 : i < 5 ? 1e-5 : 1e-3),
          `loss ${i + 1}: ${loss}, published ${expected[i]}: ${error}`,
        );
      }
      if (steps > 5)
        t.diagnostic(
          `largest relative error of losses 1 to 5, 10, 20, 50, ${steps}: ` +
            `${[5, 10, 20, 50, steps].map((n) => Math.max(...errors.slice(0, n)).toExponential(1)).join(', ')}`,
        );
    },
  );
