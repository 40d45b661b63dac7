// Times programs of a session without an optimiser, whose weights lie in panels, against those of a session with one,
// whose weights lie in rows: the same model, in turns, in one process. Prints a Markdown table: medians of the time of
// the device's run or, with `cpu`, of the processor's time of all threads, which other work on the machine changes
// less; and the median of the ratios. To run it:
//   node --conditions=dynamoe-source bench/panels.ts [threads] [tokens] [cpu]
import { compile, generate, hostTensor, loss, nn, optim, type Session } from '../src/node.ts';
import { Stream } from '../src/base/random.ts';

const [, , threads = '1', tokens = '150', clock] = process.argv,
  most = Number(tokens),
  CONTEXT = 256;
const MODELS = {
  '4 layers of width 512, 16 experts of 1024, top-2': { experts: 16, topK: 2, hidden: 1024 },
  '4 layers of width 512, 64 experts of 512 (SwiGLU), top-4': {
    experts: 64,
    topK: 4,
    hidden: 512,
    activation: 'swiglu',
  },
} as const;

const median = (ms: readonly number[]): number => [...ms].sort((a, b) => a - b)[ms.length >> 1];

/** `run` runs a program of a session. */
async function compare(
  name: string,
  [panels, rows]: readonly [Session, Session],
  times: number,
  run: (session: Session) => Promise<unknown>,
): Promise<void> {
  const ms: [number[], number[]] = [[], []];
  for (let i = -3; i < times; i++)
    for (const which of i % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const)) {
      const session = which === 0 ? panels : rows;
      const before = process.cpuUsage();
      await run(session);
      const { user, system } = process.cpuUsage(before),
        { callMs } = session.executor as unknown as { readonly callMs: number };
      if (i >= 0) ms[which].push(clock === 'cpu' ? (user + system) / 1000 : callMs);
    }
  const ratio = median(ms[0].map((x, i) => x / ms[1][i]));
  console.log(`| ${name} | ${median(ms[1]).toFixed(2)} | ${median(ms[0]).toFixed(2)} | ${ratio.toFixed(2)} |`);
}

console.log(`| program, threads: ${threads} | rows (ms) | panels (ms) | panels / rows |\n| --- | --: | --: | --: |`);
for (const [name, moe] of Object.entries(MODELS)) {
  const model = new nn.TransformerLM({ vocab: 512, dModel: 512, layers: 4, heads: 8, context: CONTEXT, moe }),
    given = { loss: loss.crossEntropy, device: 'native', threads: Number(threads), seed: 1 } as const,
    sessions = [
      await compile(model, given),
      await compile(model, { ...given, optimizer: optim.sgd({ lr: 0.1 }) }),
    ] as const;
  const made = new Map(sessions.map((s) => [s, generate(s, [1, 2, 3], { tokens: most + 3, temperature: 0 })]));
  await compare(`${name}: one token`, sessions, most, (s) => made.get(s)?.next() ?? Promise.resolve());
  const stream = new Stream(1, 'panels');
  for (const [batch, length] of [
    [1, 16],
    [1, 128],
    [8, 256],
  ]) {
    const x = hostTensor(
      'int32',
      [batch, length],
      Int32Array.from({ length: batch * length }, (_, i) => Math.floor(stream.uniform(0, i) * 512)),
    );
    await compare(`${batch} x ${length} tokens`, sessions, Math.min(most, 20480 / (batch * length)), (s) =>
      s.predict(x),
    );
  }
  for (const s of sessions) await s.close();
}
