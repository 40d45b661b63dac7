import { families } from './cases/capacity.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
