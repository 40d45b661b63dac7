import { families } from './cases/experts.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
