// The public API of `dynamoe/data`: datasets.
export * from './data/index.ts';
