import { families } from './cases/attention.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
