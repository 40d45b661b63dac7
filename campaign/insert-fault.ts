// This module is loaded before a command that an attack starts. It inserts the known fault that DYNAMOE_CAMPAIGN_PLANT
// names.
import { insertFault } from './known-faults.ts';

insertFault(process.env['DYNAMOE_CAMPAIGN_PLANT'] ?? null);
