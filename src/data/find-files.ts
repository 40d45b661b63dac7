// Which files the user means. In: paths of files and folders, and globs; out: regular files, each once, in order of the bytes of
// their absolute paths (so that the order of the arguments does not matter). Folders are searched through and through; names
// that begin with a dot are passed over unless the user names them. Links are followed, a file or folder that several lead to is
// taken once, so loops end.
import { glob, readdir, realpath, stat } from 'node:fs/promises';
import { isAbsolute, join, resolve, sep } from 'node:path';
import { UserError } from '../base/errors.ts';
import { codeOf, fault } from '../io/fault.ts';

const GLOB = /[*?[\]{}]/;

/** Absolute paths of the files. Rejects with a UserError for a path that does not exist and a glob that matches nothing. */
export async function findFiles(paths: readonly string[]): Promise<string[]> {
  const search: Search = { files: new Map(), folders: new Set() };
  for (const path of paths.toSorted(byBytes)) {
    if (path === '') throw new UserError('a data path is empty', 'name files, folders or globs');
    const kind = await kindOf(path);
    if (kind === undefined && GLOB.test(path)) await addGlob(search, path);
    else await add(search, path, kind);
  }
  return [...search.files.values()].sort(byBytes);
}

const byBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));

interface Search {
  readonly files: Map<string, string>; // real path to the path it was found under, the smallest of several
  readonly folders: Set<string>; // real paths
}
type Kind = 'file' | 'folder' | 'other';

async function kindOf(path: string): Promise<Kind | undefined> {
  try {
    const found = await stat(path);
    return found.isFile() ? 'file' : found.isDirectory() ? 'folder' : 'other';
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes(codeOf(error) ?? '')) return undefined;
    throw fault('read', path, error);
  }
}

async function add(search: Search, path: string, kind: Kind | undefined): Promise<void> {
  if (kind === undefined) throw new UserError(`data path ${path} does not exist`, isAbsolute(path) ? 'check the path' : `it was looked for at ${resolve(path)}`);
  if (kind === 'other') throw new UserError(`data path ${path} is neither a file nor a folder`, 'copy what it gives to a file first');
  const real = await realpath(path);
  if (kind === 'file') addFile(search, real, resolve(path));
  else await walk(search, real, resolve(path));
}

async function addGlob(search: Search, pattern: string): Promise<void> {
  let matches = 0;
  for await (const match of glob(pattern)) {
    const kind = await kindOf(match);
    if (kind === undefined || kind === 'other') continue; // a broken link, a socket
    matches++;
    await add(search, match, kind);
  }
  if (matches > 0) return;
  throw new UserError(`no file matches ${pattern}`, `it was matched from ${process.cwd()}; names that begin with a dot do not match *`);
}

function addFile(search: Search, real: string, shown: string): void {
  const known = search.files.get(real);
  if (known === undefined || byBytes(shown, known) < 0) search.files.set(real, shown);
}

async function walk(search: Search, real: string, shown: string): Promise<void> {
  if (search.folders.has(real)) return;
  search.folders.add(real);
  const entries = await readdir(shown, { withFileTypes: true }).catch((error: unknown) => { throw fault('read', shown, error); });
  entries.sort((a, b) => byBytes(a.name, b.name));
  for (const entry of entries) {
    if (entry.name.startsWith('.')) continue;
    const path = join(shown, entry.name);
    if (entry.isFile()) addFile(search, real + sep + entry.name, path);
    else if (entry.isDirectory()) await walk(search, real + sep + entry.name, path);
    else if (entry.isSymbolicLink()) {
      const kind = await kindOf(path);
      if (kind === 'file' || kind === 'folder') await add(search, path, kind);
    }
  }
}
