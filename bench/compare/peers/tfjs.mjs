// The TensorFlow.js peer, with its WebAssembly backend, which has one thread in Node. Its own gradient of a matrix
// product asks the backend for transposed operands, which is about six times slower than to transpose first; this file
// transposes first. Styles: 'einsum FACTOR' (GShard's masks) and 'dense'.
import { createRequire } from 'node:module';
import { resident, startPeak } from '../../../src/bench/resident.ts';
import { serve, timed } from '../protocol.ts';

const require = createRequire(import.meta.url);
const tf = require('@tensorflow/tfjs'); // the whole of it: the core alone has no gradients
const { getThreadsCount, setThreadsCount } = require('@tensorflow/tfjs-backend-wasm');

/** Exchanges the last two dimensions. */
const flip = (t) => tf.transpose(t, t.rank === 3 ? [0, 2, 1] : [1, 0]);
const matmul = tf.customGrad((a, b, save) => {
  save([a, b]);
  return { value: tf.matMul(a, b), gradFunc: (dy, [x, y]) => [tf.matMul(dy, flip(y)), tf.matMul(flip(x), dy)] };
});

const dense = (_, [w1, w2], x) => matmul(tf.relu(matmul(x, w1)), w2);

/**
 * f(probs) without a gradient: the choice has no gradient; the weights of the chosen experts are read from the
 * probabilities.
 */
const constant = (f) =>
  tf.customGrad((x, save) => {
    save([x]);
    return { value: f(x), gradFunc: (_, [p]) => tf.zerosLike(p) };
  });

/**
 * GShard's masks [tokens, experts, capacity]. A token chooses an expert at most once, so its choices can be added.
 * Experts are separate products: one batched product of eight takes fifteen times as long.
 */
function einsum({ tokens, experts, topK }, [router, ...weights], x, factor) {
  const capacity = Math.ceil((factor * topK * tokens) / experts);
  const probs = tf.softmax(matmul(x, router)); // [tokens, experts]
  const choice = (p) => tf.cast(tf.oneHot(tf.topk(p, topK).indices, experts), 'float32'); // [tokens, k, experts]
  const dispatch = constant((p) => {
    const hot = choice(p);
    const flat = tf.reshape(tf.transpose(hot, [1, 0, 2]), [topK * tokens, experts]); // first choices first
    const place = tf.transpose(tf.reshape(tf.sum(tf.mul(tf.sub(tf.cumsum(flat, 0), 1), flat), 1), [topK, tokens]));
    const room = tf.cast(tf.oneHot(tf.cast(place, 'int32'), capacity), 'float32'); // zeros for a place beyond
    const one = (t, j, shape) => tf.reshape(tf.slice(t, [0, j, 0], [-1, 1, -1]), shape);
    return tf.addN(
      Array.from({ length: topK }, (_, j) =>
        tf.mul(one(hot, j, [tokens, experts, 1]), one(room, j, [tokens, 1, capacity])),
      ),
    );
  })(probs);
  const raw = tf.mul(probs, constant((p) => tf.sum(choice(p), 1))(probs));
  const combine = tf.mul(dispatch, tf.expandDims(tf.div(raw, tf.sum(raw, 1, true)), 2));
  const slots = tf.reshape(dispatch, [tokens, experts * capacity]);
  const send = tf.customGrad((t, save) => {
    save([slots]);
    return { value: tf.matMul(flip(slots), t), gradFunc: (dy, [masks]) => tf.matMul(masks, dy) };
  });
  const rows = tf.split(send(x), experts); // [capacity, width] each
  const out = tf.concat(
    rows.map((r, e) => matmul(tf.relu(matmul(r, weights[2 * e])), weights[2 * e + 1])),
    0,
  );
  return matmul(tf.reshape(combine, [tokens, experts * capacity]), out);
}

let step = null;
let start = 0;

async function open(style, work, threads) {
  const { tokens, dModel: d, dFf, experts, topK, kind, pass } = work;
  if (kind !== 'layer' || pass !== 'train') return { missing: `tfjs does not do ${kind}, ${pass} here` };
  setThreadsCount(threads);
  await tf.setBackend('wasm');
  await tf.ready();
  start = startPeak();
  const [name, factor] = style.split(' ');
  const wide = name === 'dense' ? topK * dFf : dFf;
  const weight = (inputs, outputs) => tf.randomNormal([inputs, outputs], 0, inputs ** -0.5);
  const expert = () => [weight(d, wide), weight(wide, d)];
  let params = name === 'dense' ? expert() : [weight(d, experts), ...Array.from({ length: experts }, expert).flat()];
  const x = tf.randomNormal([tokens, d]);
  const target = tf.randomNormal([tokens, d]);
  const model = name === 'dense' ? dense : einsum;
  const loss = (input, ...p) => tf.mean(tf.square(tf.sub(model(work, p, input, Number(factor)), target)));
  const gradients = tf.valueAndGrads(loss);
  step = async () => {
    const old = params;
    const { value, toInput, updated } = tf.tidy(() => {
      const {
        value,
        grads: [g, ...rest],
      } = gradients([x, ...old]);
      return { value, toInput: g, updated: old.map((p, i) => tf.sub(p, tf.mul(rest[i], 1e-3))) };
    });
    params = updated;
    const [number] = await value.data();
    tf.dispose([old, value, toInput]);
    return number;
  };
  return { version: `TensorFlow.js ${tf.version.tfjs} (wasm, ${getThreadsCount()} threads)` };
}

await serve(async (request) => {
  if (request.do === 'open') return open(request.style, request.work, request.threads);
  if (request.do !== 'run') return {};
  return { ...(await timed(step, request.steps)), rss: resident().peak - start };
});
process.exit(0);
