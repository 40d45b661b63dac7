// This module is loaded before a command that an attack starts. It inserts the known fault that DYNAMOE_CAMPAIGN_PLANT
// names.
import { plant } from './plants.ts';

plant(process.env['DYNAMOE_CAMPAIGN_PLANT'] ?? null);
