import { families } from './cases/ranges.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
