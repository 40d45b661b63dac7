// Cases that failed in the past. seeds.json has each of them with a line about what it found; `npm test` runs all of
// them again.
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { Json } from '../src/io/json.ts';

export interface PastFailure {
  readonly part: string;
  /** The seed from which the case was drawn; null if it was written by hand. */
  readonly seed: number | null;
  /** The case itself. It stays the same even if the part later draws another case from that seed. */
  readonly attack: Json;
  /** What the case found, in one line. */
  readonly found: string;
}

export const pastFailures = async (): Promise<readonly PastFailure[]> =>
  JSON.parse(await readFile(fileURLToPath(new URL('seeds.json', import.meta.url)), 'utf8')) as PastFailure[];
