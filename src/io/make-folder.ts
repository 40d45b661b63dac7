// Creates a folder and its parents. Node's own recursive mkdir reports a read-only file system or a missing permission
// as ENOENT, and never returns for a path in /proc.
import { mkdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { UserError } from '../base/errors.ts';
import { codeOf, fault, shownPath } from './fault.ts';

/**
 * Creates the folder `path` and its parents. Rejects with a UserError that names the folder that could not be created,
 * and why.
 */
export async function makeFolder(path: string): Promise<void> {
  const error: unknown = await mkdir(path).then(
    () => null,
    (refused: unknown) => refused,
  );
  if (error === null || (await isFolder(path))) return;
  const code = codeOf(error),
    parent = dirname(path);
  if (code === 'EEXIST')
    throw new UserError(
      `cannot create the folder ${shownPath(path)}: a file of that name is there`,
      'choose another name',
    );
  if (code !== 'ENOENT' || parent === path) throw fault('create the folder', path, error);
  if (await isFolder(parent))
    throw new UserError(
      `cannot create the folder ${shownPath(path)}: its file system takes no new folders`,
      'choose a folder on another file system',
      error,
    );
  await makeFolder(parent);
  await mkdir(path).catch(async (again: unknown) => {
    if (!(await isFolder(path))) throw fault('create the folder', path, again);
  });
}

const isFolder = (path: string): Promise<boolean> =>
  stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
