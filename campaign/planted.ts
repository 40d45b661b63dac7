// Loaded before a command that an attack starts: plants in it the fault that the campaign was told to plant.
import { plant } from './plants.ts';

plant(process.env['DYNAMOE_CAMPAIGN_PLANT'] ?? null);
