// The jax-js peer, with its WebAssembly backend. Node has no Worker like a browser's, and without one jax-js runs on
// one thread: this file makes one from Node's Worker. Styles: 'einsum FACTOR' (GShard's masks) and 'dense'.
import { resolveObjectURL } from 'node:buffer';
import { Worker as NodeWorker } from 'node:worker_threads';
import { resident, startPeak } from '../../../src/bench/resident.ts';
import { serve, timed } from '../protocol.ts';

const PRELUDE = `
const { parentPort } = require('node:worker_threads');
globalThis.self = globalThis;
globalThis.postMessage = (message) => parentPort.postMessage(message);
parentPort.on('message', (data) => self.onmessage({ data }));
`;

globalThis.Worker = class {
  #worker;
  constructor(url) {
    this.#worker = resolveObjectURL(String(url))
      .text()
      .then((code) => {
        const worker = new NodeWorker(PRELUDE + code, { eval: true });
        worker.on('message', (data) => this.onmessage?.({ data }));
        worker.on('error', (error) => this.onerror?.(error));
        return worker;
      });
  }
  postMessage(message) {
    void this.#worker.then((worker) => worker.postMessage(message));
  }
};

const { blockUntilReady, defaultDevice, init, jit, lax, nn, numpy: np, valueAndGrad } = await import('@jax-js/jax');
await init('wasm');
defaultDevice('wasm');

// A jax-js function consumes its arguments; `.ref` keeps an argument for another use.
function dense({ w1, w2 }, x) {
  return np.matmul(nn.relu(np.matmul(x, w1)), w2);
}

/** GShard's masks [tokens, experts, capacity]. */
const einsum =
  ({ tokens, experts, topK }, factor) =>
  ({ router, w1, w2 }, x) => {
    const capacity = Math.ceil((factor * topK * tokens) / experts);
    const probs = nn.softmax(np.matmul(x.ref, router), -1); // [tokens, experts]
    const [values, chosen] = lax.topK(lax.stopGradient(probs.ref), topK);
    values.dispose();
    const hot = nn.oneHot(chosen, experts); // [tokens, k, experts]
    const raw = np.einsum('te,tke->tk', probs, hot.ref),
      weights = raw.ref.div(raw.sum(1, { keepdims: true }));
    const flat = np.transpose(hot.ref, [1, 0, 2]).reshape([topK * tokens, experts]); // first choices first
    const place = np.cumsum(flat.ref, 0).sub(1).mul(flat).sum(1).reshape([topK, tokens]);
    const room = nn.oneHot(np.transpose(place).astype(np.int32), capacity); // zeros for a place beyond
    const dispatch = np.einsum('tke,tkc->tec', hot.ref, room.ref);
    const combine = np.einsum('tke,tkc->tec', hot.mul(weights.reshape([tokens, topK, 1])), room);
    const rows = np.einsum('tec,td->ecd', dispatch, x);
    const out = np.einsum('ecf,efd->ecd', nn.relu(np.einsum('ecd,edf->ecf', rows, w1)), w2);
    return np.einsum('tec,ecd->td', combine, out);
  };

function normal(shape, std) {
  const values = Float32Array.from(
    { length: shape.reduce((n, d) => n * d, 1) },
    () => std * Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()),
  );
  return np.array(values).reshape(shape);
}

let step = null;
let start = 0;

function open(style, work) {
  const { tokens, dModel: d, dFf, experts, topK, kind, pass } = work;
  if (kind !== 'layer' || pass !== 'train') return { missing: `jax-js does not do ${kind}, ${pass} here` };
  const [name, factor] = style.split(' ');
  const wide = name === 'dense' ? topK * dFf : dFf;
  const bank = (...shape) => (name === 'dense' ? shape : [experts, ...shape]);
  const model = name === 'dense' ? dense : einsum(work, Number(factor));
  let params = {
    w1: normal(bank(d, wide), d ** -0.5),
    w2: normal(bank(wide, d), wide ** -0.5),
    ...(name !== 'dense' && { router: normal([d, experts], d ** -0.5) }),
  };
  const x = normal([tokens, d], 1);
  const target = normal([tokens, d], 1);
  const loss = (p, input, t) => np.square(model(p, input).sub(t)).mean();
  const train = jit((p, input, t) => {
    const [value, [gradients, toInput]] = valueAndGrad(loss, { argnums: [0, 1] })(
      Object.fromEntries(Object.entries(p).map(([k, v]) => [k, v.ref])),
      input,
      t,
    );
    return {
      value,
      toInput,
      params: Object.fromEntries(Object.keys(p).map((k) => [k, p[k].sub(gradients[k].mul(1e-3))])),
    };
  });
  step = async () => {
    const done = train(params, x.ref, target.ref);
    await blockUntilReady([done.toInput.ref, ...Object.values(done.params).map((p) => p.ref)]);
    params = done.params;
    done.toInput.dispose();
    return (await done.value.data())[0];
  };
  return { version: "jax-js 0.1.25 (wasm, with a Worker made of Node's)" };
}

await serve(async (request) => {
  if (request.do === 'open') {
    start = startPeak();
    return open(request.style, request.work);
  }
  if (request.do !== 'run') return {};
  return { ...(await timed(step, request.steps)), rss: resident().peak - start };
});
process.exit(0);
