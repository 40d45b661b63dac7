import { families } from './cases/scans.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
