import { families } from './cases/convolutions.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
