// Writes the corpus with the project's own writers: `node tools/locked.mjs campaign/corpus/make.ts`. Its files are
// small; `parts/files.ts` damages copies of them.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hostTensor } from '../../src/base/tensor.ts';
import { writeSafetensors } from '../../src/io/safetensors-file.ts';
import { generate } from '../../src/recompile/lab/generate.ts';
import { traceLines } from '../../src/recompile/lab/trace.ts';
import { command } from '../support/dynamoe.ts';
import { textIn } from '../support/small-run.ts';
import { corpusFile, corpusSession } from '../support/targets.ts';

const floats = Float32Array.of(0, 1, -1.5, NaN, 3e38, 1e-40);
await writeSafetensors(
  corpusFile('small.safetensors'),
  [
    { name: 'a', dtype: 'float32', shape: [2, 3], data: () => floats },
    { name: 'b.weight', dtype: 'int32', shape: [3], data: () => Int32Array.of(1, -2, 3) },
    { name: 'c', dtype: 'float64', shape: [], data: () => Float64Array.of(0.1) },
    { name: 'd', dtype: 'bool', shape: [4], data: () => Uint8Array.of(1, 0, 1, 1) },
    { name: 'none', dtype: 'float32', shape: [0], data: () => new Float32Array(0) },
  ],
  { format: 'pt' },
);

const session = await corpusSession(),
  tokens = hostTensor('int32', [1, 4], [1, 2, 3, 4]);
for (let i = 0; i < 2; i++) await session.step({ x: tokens, y: tokens });
await session.save(corpusFile('checkpoint.safetensors'));
await session.close();

const images = Buffer.alloc(16 + 3 * 4 * 4, 7);
[0x803, 3, 4, 4].forEach((n, i) => {
  images.writeUInt32BE(n, 4 * i);
});
await writeFile(corpusFile('images-idx3-ubyte'), images);
await writeFile(corpusFile('labels-idx1-ubyte'), Buffer.from([0, 0, 8, 1, 0, 0, 0, 3, 1, 9, 4]));
await writeFile(
  corpusFile('cifar.bin'),
  Buffer.from(Uint8Array.from({ length: 3073 }, (_, i) => (i === 0 ? 6 : i % 251))),
);
await writeFile(
  corpusFile('trace.jsonl'),
  traceLines(generate('drift', { steps: 6, seed: 1, tokens: 16, experts: 4, k: 2 })),
);
await writeFile(
  corpusFile('config.json'),
  `${JSON.stringify(
    {
      data: ['books'],
      steps: 100,
      batch: 4,
      seed: 1,
      evalEvery: 50,
      saveEvery: 10,
      accumulate: 2,
      recompile: 'adaptCapacity',
      device: 'wasm',
      threads: 1,
      model: {
        layers: 1,
        dModel: 8,
        heads: 2,
        context: 8,
        dropout: 0.1,
        tied: true,
        moe: { experts: 4, topK: 2, hidden: 8, capacity: [1, 1, 2, 0.5], overflow: 'spill', dispatch: 'padded' },
      },
      optimizer: { name: 'adamW', lr: 0.003, warmup: 5, schedule: 'cosine', floor: 0.1, betas: [0.9, 0.95], clip: 1 },
    },
    null,
    1,
  )}\n`,
);

// A run of four steps; the name of its folder is removed.
const folder = await mkdtemp(join(tmpdir(), 'corpus-')),
  out = join(folder, 'run'),
  config = join(folder, 'config.json');
await writeFile(
  config,
  JSON.stringify({
    steps: 4,
    batch: 2,
    recompile: 'off',
    model: { layers: 1, dModel: 4, heads: 1, context: 4, moe: { experts: 2, topK: 1, hidden: 3 } },
    data: [await textIn(folder)],
  }),
);
await command(['train', config, '--out', out, '--device', 'wasm', '--threads', '1', '--json']);
for (const name of ['run.json', 'events.jsonl']) {
  await writeFile(
    corpusFile(name),
    (await readFile(join(out, name), 'utf8'))
      .split('\n')
      .filter((line) => !line.startsWith('{"event":"plan"'))
      .join('\n')
      .replaceAll(folder, 'books'),
  );
}
await rm(folder, { recursive: true });
