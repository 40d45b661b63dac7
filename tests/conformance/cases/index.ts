// All families of cases. tests/conformance/table.test.ts fails if an op has no family here.
import type { Family } from '../shapes.ts';
import { families as attention } from './attention.ts';
import { families as capacity } from './capacity.ts';
import { families as compositions } from './compositions.ts';
import { families as elementwise } from './elementwise.ts';
import { families as experts } from './experts.ts';
import { families as images } from './images.ts';
import { families as matmul } from './matmul.ts';
import { families as memory } from './memory.ts';
import { families as parts } from './parts.ts';
import { families as ranges } from './ranges.ts';
import { families as ranks } from './ranks.ts';
import { families as rows } from './rows.ts';
import { families as scans } from './scans.ts';
import { families as shaping } from './shaping.ts';

export const all: readonly Family[] = [
  ...attention,
  ...capacity,
  ...compositions,
  ...elementwise,
  ...experts,
  ...images,
  ...matmul,
  ...memory,
  ...parts,
  ...ranges,
  ...ranks,
  ...rows,
  ...scans,
  ...shaping,
];
