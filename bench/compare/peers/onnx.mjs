// The onnxruntime-node peer: the forward pass of a dense feed-forward network. This file writes the model in ONNX's
// protobuf format (onnx.proto3: ModelProto and its parts; numbers here are field numbers there).
import { resident, startPeak } from '../../../src/bench/resident.ts';
import { serve, timed } from '../protocol.ts';

const { InferenceSession, Tensor, env } = await import('onnxruntime-node');

// -- protobuf: a message is a list of fields; wire type 0 is a varint, wire type 2 is bytes with their length --

function varint(n) {
  const out = [];
  for (let rest = n; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Buffer.from([...out, rest]);
    out.push((rest % 128) + 128);
  }
}
const number = (field, value) => Buffer.concat([varint(field * 8), varint(value)]);
const bytes = (field, value) => {
  const content = typeof value === 'string' ? Buffer.from(value) : value;
  return Buffer.concat([varint(field * 8 + 2), varint(content.length), content]);
};
const message = (field, ...parts) => bytes(field, Buffer.concat(parts));

const FLOAT = 1;
// GraphProto.node
const node = (op, inputs, output) => message(1, ...inputs.map((i) => bytes(1, i)), bytes(2, output), bytes(4, op));
// initializer
const weight = (name, dims, data) =>
  message(5, ...dims.map((d) => number(1, d)), number(2, FLOAT), bytes(8, name), bytes(9, Buffer.from(data.buffer)));
// ValueInfoProto
const port = (field, name, dims) =>
  message(
    field,
    bytes(1, name),
    message(2, message(1, number(1, FLOAT), message(2, ...dims.map((d) => message(1, number(1, d)))))),
  );

/** x [tokens, d] -> relu(x W1) W2 [tokens, d]. */
function ffn(tokens, d, hidden) {
  const graph = message(
    7,
    node('MatMul', ['x', 'w1'], 'a'),
    node('Relu', ['a'], 'h'),
    node('MatMul', ['h', 'w2'], 'y'),
    bytes(2, 'ffn'),
    weight('w1', [d, hidden], normal(d * hidden, d ** -0.5)),
    weight('w2', [hidden, d], normal(d * hidden, hidden ** -0.5)),
    port(11, 'x', [tokens, d]),
    port(12, 'y', [tokens, d]),
  );
  return Buffer.concat([number(1, 8), graph, message(8, number(2, 13))]); // ir_version, graph, opset_import
}

const normal = (n, std) =>
  Float32Array.from(
    { length: n },
    () => std * Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()),
  );

let step = null;
let start = 0;

async function open(style, { kind, pass, tokens, dModel: d, dFf, topK }, threads) {
  if (style !== 'dense' || kind !== 'layer' || pass !== 'forward')
    return { missing: 'onnxruntime runs forward passes alone' };
  start = startPeak();
  const session = await InferenceSession.create(ffn(tokens, d, topK * dFf), {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
  });
  const x = new Tensor('float32', normal(tokens * d, 1), [tokens, d]);
  step = async () => (await session.run({ x })).y.data[0];
  return { version: `onnxruntime-node ${env.versions.node ?? env.versions.common}` };
}

await serve(async (request) => {
  if (request.do === 'open') return open(request.style, request.work, request.threads);
  if (request.do !== 'run') return {};
  return { ...(await timed(step, request.steps)), rss: resident().peak - start };
});
process.exit(0);
