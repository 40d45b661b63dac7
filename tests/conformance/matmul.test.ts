import { families } from './cases/matmul.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
