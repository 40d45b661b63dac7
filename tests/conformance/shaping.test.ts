import { families } from './cases/shaping.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
