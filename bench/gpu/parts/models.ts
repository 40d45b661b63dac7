// Whole models, a training step, float32, beside PyTorch: the small classifier (where launches decide), the default
// language model, and a language model of 1.1 billion parameters.
import { takeTurns, type Contestant } from '../turns.ts';
import { SMALL } from '../report.ts';

const ours: Contestant = { name: 'DynaMoE', by: 'ours', style: '' },
  loop: Contestant = { name: 'PyTorch loop', by: 'torch', style: 'loop' };
const few = SMALL ? { rounds: 1, steps: 1 } : { rounds: 4, steps: 50 };

await takeTurns(
  'classifier, batch 64',
  { kind: 'classifier', pass: 'train', batch: SMALL ? 4 : 64 },
  [
    { ...ours, style: 'bank' },
    { ...ours, name: 'DynaMoE, experts as modules' },
    loop,
    { name: 'PyTorch padded, factor 2', by: 'torch', style: 'scatter 2' },
  ],
  few,
);
if (!SMALL) {
  await takeTurns('language model', { kind: 'lm', pass: 'train', batch: 12 }, [ours, loop], few);
  await takeTurns(
    'language model, 1.1B parameters',
    {
      kind: 'lm',
      pass: 'train',
      batch: 8,
      lm: { dModel: 1024, layers: 12, heads: 16, context: 512, experts: 16, hidden: 2560 },
    },
    [ours, loop],
    { rounds: 2, steps: 25 },
  );
}
