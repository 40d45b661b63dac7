// Memories of choices by samples' ids, on every device.
import { families } from './cases/memory.ts';
import { runFamilies } from './run.ts';

runFamilies(families);
