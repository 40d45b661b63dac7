import { families } from './cases/einsum.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
