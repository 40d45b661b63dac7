// The references of all ops that have none in their record: a program that is only compiled does not need them.
import type { Op, RefCall } from '../op.ts';
import { attention } from './attention.ts';
import { create } from './create.ts';
import { image } from './image.ts';
import { matmul } from './matmul.ts';
import { moe } from './moe.ts';
import { reduce } from './reduce.ts';
import type { References } from './references.ts';
import { shape } from './shape.ts';

const all: References = { ...attention, ...create, ...image, ...matmul, ...moe, ...reduce, ...shape },
  byName = new Map<string, unknown>(Object.entries(all));

/** The reference of an op. */
export function referenceOf({ name, reference }: Op): (call: RefCall) => Float64Array[] {
  const found = reference ?? byName.get(name);
  if (!found) throw new Error(`the op ${name} has no reference`);
  return found as (call: RefCall) => Float64Array[];
}
