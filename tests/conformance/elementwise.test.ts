import { families } from './cases/elementwise.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
