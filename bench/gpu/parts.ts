// The parts of the check on a GPU, in the order in which they run. Each is a process of its own with its own limit of
// time, so that one that hangs or crashes the driver costs the others nothing.
export interface Part {
  readonly name: string;
  /** A: is it right? B: is it fast? Each stage ends within 5 minutes. */
  readonly stage: 'A' | 'B';
  /** Seconds after which the process is ended. The limits of a stage add up to less than 5 minutes. */
  readonly seconds: number;
  readonly what: string;
}

export const PARTS: readonly Part[] = [
  { name: 'probe', stage: 'A', seconds: 30, what: 'driver, GPU, and what it can do at most: copy, launch, products' },
  { name: 'conformance', stage: 'A', seconds: 80, what: 'every op in float32 against hashes made on a CPU' },
  { name: 'products', stage: 'A', seconds: 70, what: 'products: layouts, tiles and ragged groups against float64' },
  { name: 'sanitizer', stage: 'A', seconds: 50, what: 'compute-sanitizer on small kernels, and on one with an error' },
  { name: 'session', stage: 'A', seconds: 50, what: 'training against a CPU: graph and stream, guards, swaps, undo' },
  { name: 'layers', stage: 'B', seconds: 130, what: 'MoE layers, beside PyTorch: loop, padded, grouped_mm' },
  { name: 'models', stage: 'B', seconds: 160, what: 'classifier, language model and 1B parameters, beside PyTorch' },
];
