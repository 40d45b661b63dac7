// A temporary folder for one test, removed when the test ends. In: the test's context; out: the folder's path.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';

export async function temporaryFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'dynamoe-test-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Matches a UserError whose message holds all the words. */
export const says =
  (...words: string[]) =>
  (error: unknown): boolean => {
    if (!(error instanceof Error) || error.name !== 'UserError')
      throw new Error('expected a UserError', { cause: error });
    const missing = words.find((word) => !error.message.includes(word));
    if (missing !== undefined) throw new Error(`"${error.message}" does not say "${missing}"`);
    return true;
  };
