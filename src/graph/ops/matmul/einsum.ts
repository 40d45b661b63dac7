// Sums of products over named dimensions, made of sum, transpose, reshape, mul and matmul.
import { ShapeError, UserError } from '../../../base/errors.ts';
import { shown } from '../../../base/options.ts';
import { boundOf, sameDim, showType, type Dim } from '../../../base/shape.ts';
import { checkTensors, type Tensor } from '../../tensor.ts';
import { mul } from '../elementwise/mul.ts';
import { sum } from '../reduce/sum.ts';
import { reshape } from '../shape/reshape.ts';
import { transpose } from '../shape/transpose.ts';
import { matmul } from './matmul.ts';

/** A tensor with a letter for each dimension. */
interface Named {
  readonly x: Tensor;
  readonly letters: readonly string[];
}

/**
 * Sums of products over named dimensions, as NumPy's einsum: `einsum('bij,bjk->bik', a, b)` is a batched matrix
 * product. One letter a dimension; letters that are missing after `->` are summed out. Any number of operands, which
 * are multiplied from left to right: the order decides how large the results in between are. A first dimension that
 * varies at run time must stay first or be summed out. ShapeError where sizes of a letter differ; UserError for an
 * equation without `->`, with `...`, or with a letter twice in one operand or in the result.
 */
export function einsum(equation: string, ...operands: readonly Tensor[]): Tensor {
  const { inputs, output } = parse(equation);
  if (inputs.length !== operands.length)
    throw new UserError(`einsum: '${equation}' has ${inputs.length} operands, got ${operands.length}`);
  checkTensors('einsum', ...operands);
  checkSizes(equation, inputs, operands);

  const named = operands.map((x, i): Named => ({ x, letters: inputs[i] }));
  const product = named.slice(1).reduce((left, right, i) => {
    const kept = new Set([output, ...inputs.slice(i + 2)].flat()),
      sides = [left, right] as const;
    const [a, b] = sides.map((side, s) =>
      sumOut(side, (letter) => kept.has(letter) || sides[1 - s].letters.includes(letter)),
    );
    return multiply(a, b, kept, output);
  }, named[0]);
  return inOrder(
    sumOut(product, (letter) => output.includes(letter)),
    output,
  );
}

function parse(equation: unknown): { inputs: string[][]; output: string[] } {
  const match = typeof equation === 'string' ? /^([a-z,]*)->([a-z]*)$/i.exec(equation.replaceAll(' ', '')) : null;
  if (!match) {
    throw new UserError(
      `einsum: ${shown(equation)} is no equation`,
      "letters for the dimensions of each operand, '->', and those of the result, as in 'ij,jk->ik'",
    );
  }
  const inputs = match[1].split(',').map((text) => [...text]),
    output = [...match[2]];
  for (const [what, letters] of [...inputs.map((l, i) => [`operand ${i}`, l] as const), ['the result', output]]) {
    const twice = (letters as string[]).find((letter, i) => letters.indexOf(letter) !== i);
    if (twice !== undefined)
      throw new UserError(`einsum: '${equation as string}' has '${twice}' twice in ${what as string}`);
  }
  const unknown = output.find((letter) => !inputs.some((l) => l.includes(letter)));
  if (unknown !== undefined)
    throw new UserError(`einsum: '${equation as string}' has '${unknown}' in the result, but in no operand`);
  return { inputs, output };
}

function checkSizes(equation: string, inputs: readonly (readonly string[])[], operands: readonly Tensor[]): void {
  const sizes = new Map<string, Dim>();
  operands.forEach(({ type }, i) => {
    if (type.shape.length !== inputs[i].length) {
      throw new ShapeError(
        `einsum: '${equation}' names ${inputs[i].length} dimensions of operand ${i}, which is ${showType(type)}`,
      );
    }
    inputs[i].forEach((letter, d) => {
      const known = sizes.get(letter) ?? type.shape[d];
      sizes.set(letter, known);
      if (!sameDim(known, type.shape[d])) {
        throw new ShapeError(
          `einsum: '${letter}' of '${equation}' is ${boundOf(known)}, but dimension ${d} of operand ${i} is ` +
            `${boundOf(type.shape[d])}`,
        );
      }
    });
  });
}

function sumOut({ x, letters }: Named, keeps: (letter: string) => boolean): Named {
  const axes = letters.flatMap((letter, i) => (keeps(letter) ? [] : [i]));
  return axes.length === 0 ? { x, letters } : { x: sum(x, axes), letters: letters.filter(keeps) };
}

function inOrder({ x, letters }: Named, wanted: readonly string[]): Tensor {
  const order = wanted.map((letter) => letters.indexOf(letter));
  return order.every((d, i) => d === i) ? x : transpose(x, order);
}

/** The product of two operands, summed over the letters of both that are not kept. */
function multiply(first: Named, second: Named, kept: ReadonlySet<string>, output: readonly string[]): Named {
  const place = (letter: string): number => (output.includes(letter) ? output.indexOf(letter) : output.length);
  const shared = first.letters.filter((l) => second.letters.includes(l)),
    batch = shared.filter((l) => kept.has(l)).sort((a, b) => place(a) - place(b)),
    summed = shared.filter((l) => !kept.has(l));
  const ownOf = ({ letters }: Named): string[] => letters.filter((l) => !shared.includes(l));
  const start = (side: Named): number => Math.min(...ownOf(side).map(place));
  const [a, b] = start(second) < start(first) ? [second, first] : [first, second],
    [m, n] = [ownOf(a), ownOf(b)],
    letters = [...batch, ...m, ...n];
  const size = (letter: string): number => {
    const { x, letters } = a.letters.includes(letter) ? a : b;
    return boundOf(x.shape[letters.indexOf(letter)]);
  };

  // Without a sum, or with a sum of elements at the same place, there is no matrix.
  if (summed.length === 0 || (m.length === 0 && n.length === 0)) {
    const all = [...batch, ...m, ...n, ...summed];
    const spread = (side: Named): Tensor =>
      reshape(
        inOrder(
          side,
          all.filter((l) => side.letters.includes(l)),
        ),
        all.map((l) => (side.letters.includes(l) ? size(l) : 1)),
      );
    return sumOut({ x: mul(spread(a), spread(b)), letters: all }, (l) => !summed.includes(l));
  }

  /** [...batch, rows, depth], or [...batch, depth, rows] if that is nearer to how the operand lies in memory. */
  const matrix = (side: Named, own: readonly string[]): { x: Tensor; depthFirst: boolean } => {
    const depthFirst = summed.includes(side.letters.filter((l) => !batch.includes(l))[0]);
    const parts = depthFirst ? [summed, own] : [own, summed];
    const x = inOrder(side, [...batch, ...parts.flat()]);
    return {
      x: reshape(x, [...batch.map(size), ...parts.map((p) => p.map(size).reduce((k, d) => k * d, 1))]),
      depthFirst,
    };
  };
  const left = matrix(a, m),
    right = matrix(b, n);
  const x = matmul(left.x, right.x, { transA: left.depthFirst, transB: !right.depthFirst });
  return { x: reshape(x, letters.map(size)), letters };
}
