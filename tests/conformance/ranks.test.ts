import { families } from './cases/ranks.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
