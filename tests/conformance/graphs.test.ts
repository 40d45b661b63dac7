import { families } from './cases/graphs.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
