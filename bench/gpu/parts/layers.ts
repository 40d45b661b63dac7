// One MoE layer, a training step with the gradient to its input, SGD, float32, random data and weights larger than the
// second-level cache; beside PyTorch in several styles. torch's grouped_mm takes bfloat16 only, where ours is float32:
// tensor cores are not used here yet.
import type { Work } from '../../compare/protocol.ts';
import { SMALL } from '../report.ts';
import { takeTurns, type Contestant } from '../turns.ts';

const CONTESTANTS: readonly Contestant[] = [
  { name: 'DynaMoE', by: 'ours', style: 'eager' },
  { name: 'PyTorch loop', by: 'torch', style: 'loop' },
  { name: 'PyTorch padded, factor 1.25 (drops)', by: 'torch', style: 'scatter 1.25' },
  { name: 'PyTorch padded, factor 2', by: 'torch', style: 'scatter 2' },
  { name: 'PyTorch grouped_mm', by: 'torch', style: 'grouped' },
  { name: 'PyTorch grouped_mm, bfloat16', by: 'torch', style: 'grouped bfloat16' },
  { name: 'PyTorch dense of the same FLOPs', by: 'torch', style: 'dense' },
];
const SHAPES: Readonly<Record<string, Partial<Work>>> = SMALL
  ? { tiny: { tokens: 64, dModel: 16, dFf: 32, experts: 4, topK: 2 } }
  : {
      small: { tokens: 2048, dModel: 512, dFf: 2048, experts: 8, topK: 2 },
      'small, skewed': { tokens: 2048, dModel: 512, dFf: 2048, experts: 8, topK: 2, skew: 0.73 },
      'many experts (Qwen3-30B)': { tokens: 8192, dModel: 2048, dFf: 768, experts: 128, topK: 8 },
      'few experts (Mixtral)': { tokens: 4096, dModel: 4096, dFf: 14336, experts: 8, topK: 2 },
    };

for (const [name, sizes] of Object.entries(SHAPES))
  await takeTurns(
    name,
    { kind: 'layer', pass: 'train', ...sizes },
    CONTESTANTS,
    SMALL ? { rounds: 1, steps: 1 } : { rounds: 4, steps: name.startsWith('small') ? 20 : 4 },
  );
