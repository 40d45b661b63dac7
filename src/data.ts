// The public face of `dynamoe/data`: datasets.
export * from './data/index.ts';
