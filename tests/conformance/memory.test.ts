// The ops that store choices by sample id, on every device.
import { families } from './cases/memory.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
