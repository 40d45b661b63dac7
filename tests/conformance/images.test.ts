import { families } from './cases/images.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
