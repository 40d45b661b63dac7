// The public face of `dynamoe/data`: datasets.
export { arrays, type ArrayDataset, type ArrayOptions, type Rows } from './arrays.ts';
export { balancedOrder, type BalancedOptions } from './balanced.ts';
export { cifar10, cifar100, type Cifar100Options, type CifarOptions } from './cifar.ts';
export type { Batches, BatchOptions, Dataset, EpochOrder, PassOptions, Split } from './dataset.ts';
export { mnist, type IdxFiles, type MnistOptions } from './mnist.ts';
export {
  textFrom,
  type TextBatchOptions,
  type TextCounts,
  type TextDataset,
  type TextInfo,
  type TextOptions,
  type TextPassOptions,
} from './text.ts';
export { text } from './text-files.ts';
