// The seed and the number of random cases. `npm test` loads this file before each test (tools/test.ts), so that every
// property of fast-check draws the same cases each time. `npm run ci:full` draws others.
import fc from 'fast-check';
import type { Draws } from '../conformance/draws.ts';

/**
 * DYNAMOE_TEST_SEED is the seed of the random cases (a number or 'random'; default 1); DYNAMOE_TEST_RUNS multiplies
 * their number.
 */
export function drawsFromEnv(): Draws {
  const { DYNAMOE_TEST_SEED: seed = '1', DYNAMOE_TEST_RUNS: times = '1' } = process.env;
  return { seed: seed === 'random' ? Math.floor(Math.random() * 2 ** 31) : Number(seed), times: Number(times) };
}

fc.configureGlobal({ seed: drawsFromEnv().seed });
