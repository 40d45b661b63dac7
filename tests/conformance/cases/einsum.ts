// Random equations for einsum, and their conformance cases.
import fc from 'fast-check';
import { einsum } from '../../../src/layers.ts';
import type { Family } from '../shapes.ts';

export interface Equation {
  readonly text: string;
  /** The letters of each operand. */
  readonly inputs: readonly string[];
  readonly output: string;
  readonly sizes: Readonly<Record<string, number>>;
}

const LETTERS = ['a', 'b', 'c', 'd', 'e'];

export const equations: fc.Arbitrary<Equation> = fc
  .tuple(
    fc.array(
      fc.shuffledSubarray(LETTERS, { maxLength: 3 }).map((l) => l.join('')),
      { minLength: 1, maxLength: 4 },
    ),
    fc.shuffledSubarray(LETTERS),
    fc.array(fc.constantFrom(1, 2, 3, 4), { minLength: 5, maxLength: 5 }),
  )
  .map(([inputs, wanted, dims]) => {
    const output = wanted.filter((l) => inputs.some((text) => text.includes(l))).join('');
    return {
      text: `${inputs.join(',')}->${output}`,
      inputs,
      output,
      sizes: Object.fromEntries(LETTERS.map((l, i) => [l, dims[i]])),
    };
  });

export const families: readonly Family[] = [
  {
    op: 'matmul',
    name: 'einsum',
    cases: equations.map(({ text, inputs, sizes }) => ({
      inputs: inputs.map((letters, i) => ({ name: `x${i}`, shape: [...letters].map((l) => sizes[l]) })),
      build: (operands) => einsum(text, ...operands),
    })),
    runs: 60,
  },
];
