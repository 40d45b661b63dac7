import { families } from './cases/compositions.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
