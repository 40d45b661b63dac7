// Finds files by paths of files and folders, and by globs. Out: regular files, each once, in order of the bytes of
// their absolute paths (so that the order of arguments does not matter), and the paths that were left out. Folders are
// searched recursively; names that begin with a dot are left out unless the user names them. Links are followed; a file
// or folder that several links lead to is taken once, so that loops end. Names are bytes, which need not be UTF-8.
import { glob, lstat, readdir, realpath, stat } from 'node:fs/promises';
import { isAbsolute, resolve, sep } from 'node:path';
import { UserError } from '../base/errors.ts';
import { codeOf, fault, shownPath } from '../io/fault.ts';
import type { Skipped } from './left-out.ts';

const GLOB = /[*?[\]{}]/;
// Error codes: a search skips such paths; for a path that the user named, they are an error.
const REFUSED = ['EACCES', 'EPERM'];

/** A file by the bytes of its absolute path. `named`: the user named it, or a glob that it matches. */
export interface Found {
  readonly path: Buffer;
  readonly named: boolean;
}
export interface Search {
  readonly files: readonly Found[];
  readonly skipped: readonly Skipped[];
}

/**
 * Rejects with a UserError for a path that does not exist, a glob that matches nothing, and a named path that may not
 * be read.
 */
export async function findFiles(paths: readonly string[]): Promise<Search> {
  const found: Finding = { files: new Map(), folders: new Map(), skipped: [] };
  for (const path of paths.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))) {
    if (path === '') throw new UserError('a data path is empty', 'name files, folders or globs');
    const kind = await kindOf(path);
    if (kind === undefined && GLOB.test(path)) await addGlob(found, path);
    else await addNamed(found, path, kind);
  }
  return { files: [...found.files.values()].sort((a, b) => Buffer.compare(a.path, b.path)), skipped: found.skipped };
}

interface Finding {
  readonly files: Map<string, Found>; // real path to the path it was found under, the smallest of several
  readonly folders: Map<string, string>; // the same, of folders
  readonly skipped: Skipped[];
}
type Kind = 'file' | 'folder' | 'other';
type Path = string | Buffer;
const DOT = '.'.charCodeAt(0);

const bytesOf = (path: Path): Buffer => (typeof path === 'string' ? Buffer.from(resolve(path)) : path);
const under = (folder: Buffer, name: Buffer): Buffer =>
  Buffer.concat([folder, Buffer.from(folder.at(-1) === sep.charCodeAt(0) ? '' : sep), name]);
/** A key that differs for different bytes, also if they are not UTF-8. */
const keyOf = (path: Buffer): string => path.toString('latin1');
const skip = (found: Finding, path: Path, reason: Skipped['reason']): void => {
  found.skipped.push({ path: path.toString(), reason });
};

async function kindOf(path: Path): Promise<Kind | undefined> {
  try {
    const found = await stat(path);
    return found.isFile() ? 'file' : found.isDirectory() ? 'folder' : 'other';
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes(codeOf(error) ?? '')) return undefined;
    throw fault('read', path.toString(), error);
  }
}

async function addNamed(found: Finding, path: string, kind: Kind | undefined): Promise<void> {
  const name = shownPath(path);
  if (kind === undefined) {
    const link = await lstat(path).then(
      (found) => found.isSymbolicLink(),
      () => false,
    );
    throw new UserError(
      `data path ${name} ${link ? 'is a link that leads nowhere' : 'does not exist'}`,
      path.includes('\uFFFD')
        ? 'its name is not UTF-8: name the folder that it lies in'
        : `${isAbsolute(path) ? 'check the path' : `it was looked for at ${resolve(path)}`}; if the data has moved, ` +
            `name where it is now`,
    );
  }
  if (kind === 'other')
    throw new UserError(`data path ${name} is neither a file nor a folder`, 'copy its content to a file first');
  await add(found, path, kind, true);
}

async function addGlob(found: Finding, pattern: string): Promise<void> {
  let matches = 0;
  for await (const match of glob(pattern)) {
    const kind = await kindOf(match);
    if (kind === undefined || kind === 'other')
      skip(
        found,
        resolve(match),
        kind ? 'no file' : match.includes('\uFFFD') ? 'name that is not UTF-8' : 'broken link',
      );
    else {
      matches++;
      await add(found, match, kind, true);
    }
  }
  if (matches > 0) return;
  throw new UserError(
    `no file matches ${shownPath(pattern)}`,
    `it was matched from ${process.cwd()}; names that begin with a dot do not match *`,
  );
}

/** A file or folder under one of its paths. */
async function add(found: Finding, path: Path, kind: 'file' | 'folder', named: boolean): Promise<void> {
  const real = await realpath(path, { encoding: 'buffer' });
  if (kind === 'file') addFile(found, real, bytesOf(path), named);
  else await walk(found, real, bytesOf(path), named);
}

function addFile(found: Finding, real: Buffer, path: Buffer, named: boolean): void {
  const key = keyOf(real),
    known = found.files.get(key);
  if (!known) {
    found.files.set(key, { path, named });
    return;
  }
  const first = Buffer.compare(path, known.path) < 0;
  if (Buffer.compare(path, known.path) !== 0) skip(found, first ? known.path : path, 'again');
  found.files.set(key, { path: first ? path : known.path, named: named || known.named });
}

async function walk(found: Finding, real: Buffer, path: Buffer, named: boolean): Promise<void> {
  const known = found.folders.get(keyOf(real));
  if (known !== undefined) {
    if (known !== keyOf(path)) skip(found, path, 'again');
    return;
  }
  found.folders.set(keyOf(real), keyOf(path));
  const entries = await readdir(path, { withFileTypes: true, encoding: 'buffer' }).catch((error: unknown) => {
    if (named || !REFUSED.includes(codeOf(error) ?? '')) throw fault('read', path.toString(), error);
    skip(found, path, 'unreadable');
    return [];
  });
  entries.sort((a, b) => Buffer.compare(a.name, b.name));
  for (const entry of entries) {
    const at = under(path, entry.name);
    if (entry.name[0] === DOT) skip(found, at, 'hidden');
    else if (entry.isFile()) addFile(found, under(real, entry.name), at, false);
    else if (entry.isDirectory()) await walk(found, under(real, entry.name), at, false);
    else await addOther(found, at);
  }
}

/** Adds an entry whose kind must be looked up: a link, or an entry of a file system that does not tell the kind. */
async function addOther(found: Finding, path: Buffer): Promise<void> {
  const kind = await kindOf(path).catch(() => 'unreadable' as const);
  if (kind === 'file' || kind === 'folder') await add(found, path, kind, false);
  else skip(found, path, kind === undefined ? 'broken link' : kind === 'other' ? 'no file' : 'unreadable');
}
