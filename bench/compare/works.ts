// The list of works, and the contestants of each with their styles. The first contestant of a work is DynaMoE's; the
// others are compared with it.
import type { Work } from './protocol.ts';

export const RUNNERS = ['ours', 'torch', 'jax', 'tfjs', 'onnx'] as const;
export type RunnerName = (typeof RUNNERS)[number];

export interface Contestant {
  readonly name: string;
  readonly runner: RunnerName;
  readonly style: string;
  /** For DynaMoE's contestants: the checkout from which they run; the default is this one. */
  readonly folder?: string;
}

export interface Comparison {
  readonly id: string;
  readonly title: string;
  readonly work: Work;
  /** Samples or tokens per step, for tokens/s. */
  readonly samples: number;
  /** FLOPs of a step; null if they are not counted. */
  readonly flops: number | null;
  readonly contestants: readonly Contestant[];
}

const contestant = (name: string, runner: RunnerName, style: string): Contestant => ({ name, runner, style });
const EAGER = contestant('DynaMoE, eager updates', 'ours', 'native eager'),
  ATOMIC = contestant('DynaMoE, all gradients kept', 'ours', 'native');
const NATIVE = [EAGER, ATOMIC],
  PRODUCTS = contestant('its products alone, equal loads', 'ours', 'native products');
const FORWARD = contestant('DynaMoE', 'ours', 'native');
const DENSE = contestant('DynaMoE, dense FFN', 'ours', 'native dense');
const LOOPS = [
  contestant('PyTorch loop (Hugging Face)', 'torch', 'loop'),
  contestant('PyTorch loop, sorted', 'torch', 'sorted'),
];
const FIXED = [
  contestant('PyTorch scatter, factor 1 (drops)', 'torch', 'scatter 1'),
  contestant('PyTorch scatter, factor 2', 'torch', 'scatter 2'),
  contestant('PyTorch einsum, factor 1 (drops)', 'torch', 'einsum 1'),
];
const TORCH_DENSE = contestant('PyTorch dense FFN', 'torch', 'dense');

function layer(
  id: string,
  title: string,
  sizes: { dModel?: number; dFf?: number; experts?: number; skew?: number; pass?: Work['pass'] },
  contestants: readonly Contestant[],
): Comparison {
  const { dModel = 256, dFf = 1024, experts = 8, skew = 0, pass = 'train' } = sizes,
    tokens = 2048,
    topK = 2;
  return {
    id,
    title:
      `${title}: ${tokens} tokens, width ${dModel}, hidden ${dFf}, ${experts} experts, top-${topK}, ` +
      `ReLU, ${pass === 'train' ? 'SGD and the gradient to the input' : 'forward'}`,
    work: { kind: 'layer', pass, tokens, dModel, dFf, experts, topK, ...(skew > 0 && { skew }) },
    samples: tokens,
    flops: (pass === 'train' ? 12 : 4) * tokens * topK * dModel * dFf,
    contestants,
  };
}

/** The skew with which 60% of the tokens choose the busiest of 8 experts. */
const SIXTY = 0.73;

const classifier = (batch: number): Comparison => ({
  id: `classifier-${batch}`,
  title: `Small classifier: batch ${batch}, gate 784-64-8, top-2 of 8 experts 784-64-10, SGD`,
  samples: batch,
  flops: null,
  work: { kind: 'classifier', pass: 'train', batch },
  contestants: [
    contestant('DynaMoE', 'ours', 'native'),
    contestant('DynaMoE, experts in one bank', 'ours', 'native bank'),
    contestant('PyTorch loop', 'torch', 'loop'),
    contestant('PyTorch scatter, factor 2', 'torch', 'scatter 2'),
    contestant('PyTorch, all experts dense', 'torch', 'dense'),
    contestant('PyTorch plain MLP 784-64-10', 'torch', 'mlp'),
  ],
});

/**
 * The largest number of experts that can be trained within a memory budget, which includes parameters and the memory of
 * a step.
 */
export interface Capacity {
  readonly id: string;
  readonly title: string;
  readonly work: Work;
  readonly budget: number;
  readonly contestants: readonly Contestant[];
}

const capacity = (id: string, title: string, contestants: readonly Contestant[]): Capacity => ({
  id,
  title: `${title}: 2048 tokens, width 256, hidden 1024, top-2, ReLU, SGD and the gradient to the input`,
  budget: 2 ** 30,
  work: { kind: 'layer', pass: 'train', tokens: 2048, dModel: 256, dFf: 1024, experts: 8, topK: 2 },
  contestants,
});

const inBfloat16 = (contestants: readonly Contestant[]): Contestant[] =>
  contestants.map(({ name, runner, style }) =>
    contestant(`${name}, bfloat16`, runner, `${style} ${runner === 'torch' ? 'bfloat16' : 'bfloat16-weights'}`),
  );

export const CAPACITIES: readonly Capacity[] = [
  capacity('capacity', 'Experts that train within 1 GiB', [...NATIVE, ...LOOPS, ...FIXED]),
  capacity('capacity-bfloat16', 'Experts that train within 1 GiB, stored in bfloat16', [
    ...inBfloat16(NATIVE),
    EAGER,
    ...inBfloat16([...LOOPS, ...FIXED]),
  ]),
];

export const COMPARISONS: readonly Comparison[] = [
  layer('layer-e8', 'Layer', {}, [...NATIVE, PRODUCTS, DENSE, ...LOOPS, ...FIXED, TORCH_DENSE]),
  layer('layer-e64', 'Layer', { experts: 64 }, [
    ...NATIVE,
    PRODUCTS,
    ...LOOPS,
    contestant('PyTorch scatter, factor 2', 'torch', 'scatter 2'),
  ]),
  layer('layer-d512', 'Layer', { dModel: 512, dFf: 2048 }, [...NATIVE, PRODUCTS, DENSE, ...LOOPS]),
  layer('layer-skew', 'Layer with 60% of the tokens on one expert', { skew: SIXTY }, [
    EAGER,
    contestant('the same, balanced', 'ours', 'native eager balanced'),
  ]),
  ...[64, 256, 1024].map(classifier),
  {
    id: 'lm',
    title: 'Language model: 4 layers, width 128, 8 experts of hidden width 256, top-2, 12 x 64 tokens, AdamW',
    samples: 12 * 64,
    flops: null,
    work: { kind: 'lm', pass: 'train', batch: 12 },
    contestants: [...NATIVE, contestant('PyTorch loop, sorted', 'torch', 'sorted')],
  },
  layer('forward-e8', 'Forward', { pass: 'forward' }, [FORWARD, PRODUCTS, ...LOOPS]),
  layer('forward-e64', 'Forward', { experts: 64, pass: 'forward' }, [FORWARD, PRODUCTS, ...LOOPS]),
  layer('forward-dense', 'Forward of a dense FFN of the same active FLOPs', { pass: 'forward' }, [
    DENSE,
    TORCH_DENSE,
    contestant('onnxruntime-node dense FFN', 'onnx', 'dense'),
  ]),
  layer('wasm', 'Layer in WebAssembly', {}, [
    contestant('DynaMoE wasm', 'ours', 'wasm'),
    contestant('DynaMoE wasm, dense FFN', 'ours', 'wasm dense'),
    contestant('jax-js einsum, factor 1 (drops)', 'jax', 'einsum 1'),
    contestant('jax-js dense FFN', 'jax', 'dense'),
    contestant('tfjs-wasm einsum, factor 1 (drops)', 'tfjs', 'einsum 1'),
    contestant('tfjs-wasm dense FFN', 'tfjs', 'dense'),
  ]),
];
