// How long it takes to draw a token (src/session/sampling.ts) from a vocabulary of 151,936, with normal logits:
// `node --conditions=dynamoe-source bench/sampling.ts`. Prints the median of 300 draws for some limits.
import { Stream } from '../src/base/random.ts';
import { median } from '../src/observe/quantile.ts';
import { drawToken, logprobsOf, type Sampling } from '../src/session/sampling.ts';

const VOCAB = 151_936,
  PLAIN: Sampling = { temperature: 1, topK: Infinity, topP: 1, minP: 0, repetitionPenalty: 1 };
const logits = Float64Array.from(new Stream(1, 'logits').normals(0, 3, new Float32Array(VOCAB)));

function timed(what: string, draw: (own: Float64Array) => unknown): void {
  const ms: number[] = [];
  for (let i = 0; i < 300; i++) {
    const own = logits.slice(),
      start = performance.now();
    draw(own);
    ms.push(performance.now() - start);
  }
  console.log(`${what}: ${median(ms).toFixed(2)} ms`);
}

const limits: Readonly<Record<string, Partial<Sampling>>> = {
  'all tokens': {},
  'top-k 50': { topK: 50 },
  'top-p 0.9': { topP: 0.9 },
  'min-p 0.05': { minP: 0.05 },
  'temperature 0': { temperature: 0 },
};
let drawn = 0;
for (const [what, limit] of Object.entries(limits))
  timed(what, (own) => drawToken(own, { ...PLAIN, ...limit }, new Set(), (drawn++ % 300) / 300));
timed('log-probabilities of the 10 most probable', (own) => logprobsOf(own, 0, 10));
