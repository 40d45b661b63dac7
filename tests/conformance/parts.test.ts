import { families } from './cases/parts.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
