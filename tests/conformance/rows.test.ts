import { families } from './cases/rows.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
