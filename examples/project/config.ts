// The run: a model, its data, and how long it trains. `npm start` runs it. Every setting is in the guide "Training".
import type { TrainConfig } from 'dynamoe';
import { oneExpert } from './rule.ts';

export const model = {
  layers: 2,
  dModel: 64,
  heads: 4,
  context: 48, // bytes
  moe: { experts: 8, topK: 2, hidden: 64, dispatch: 'padded', capacity: 2, overflow: 'spill' },
} as const;

export default {
  model,
  data: ['data/numbers.txt'],
  batch: 16,
  steps: 600,
  optimizer: { name: 'adamW', lr: 3e-3, schedule: 'cosine' },
  rules: [oneExpert()],
} satisfies TrainConfig;
