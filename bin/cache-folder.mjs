// The folder for this user's caches: compiled kernels (src/device/cache.ts), and Node's compiled form of the
// command's sources (dynamoe.mjs uses it before any source is loaded). Files in it are executed, so a folder is used
// only if no other user can write to it. This is plain JavaScript that any Node can parse.
import { chmodSync, lstatSync, mkdirSync, statSync } from 'node:fs';
import { homedir, platform, tmpdir } from 'node:os';
import { dirname, isAbsolute, join, resolve } from 'node:path';

/**
 * The folders to try, in order: DYNAMOE_CACHE, if it is set; else one in the user's cache folder; then one of the
 * user's own in the folder for temporary files. named: the user chose the folder, and its mode is not changed. shared:
 * others can write to the folder that contains it.
 */
export function cacheFolders() {
  const { DYNAMOE_CACHE: named, XDG_CACHE_HOME: xdg } = process.env,
    folders = [];
  const base = xdg && isAbsolute(xdg) ? xdg : userFolder();
  if (named) folders.push({ path: resolve(named), named: true, shared: false });
  else if (base !== null) folders.push({ path: join(base, 'dynamoe'), named: false, shared: false });
  const user = process.getuid?.() ?? process.env.USERNAME ?? 'user';
  folders.push({ path: join(tmpdir(), `dynamoe-cache-${user}`), named: false, shared: true });
  return folders;
}

/** null: this user has no home folder. */
function userFolder() {
  try {
    const home = homedir();
    if (!isAbsolute(home)) return null;
    return join(home, ...(platform() === 'darwin' ? ['Library', 'Caches'] : ['.cache']));
  } catch {
    return null;
  }
}

/** Creates the folder with mode 700 if it does not exist. Returns the reason why it cannot be used, or null. */
export function refusal({ path, named, shared }) {
  try {
    makeFolder(path, !shared);
    // A user who can write to the parent folder could have put a link there.
    const found = shared ? lstatSync(path) : statSync(path),
      uid = process.getuid?.();
    if (!found.isDirectory()) return 'it is not a folder';
    if (uid === undefined) return null; // Windows: access depends on the user's profile
    if (found.uid !== uid && (found.uid !== 0 || shared)) return `it belongs to another user (uid ${found.uid})`;
    if (!named && found.uid === uid && (found.mode & 0o077) !== 0) chmodSync(path, 0o700);
    else if ((found.mode & 0o022) !== 0) return 'other users can write to it (chmod 700 makes it private)';
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Like mkdir; with `parents` like mkdir -p. (Node's own recursive mkdir never returns for some paths in /proc.) */
function makeFolder(path, parents) {
  const make = () => {
    mkdirSync(path, { mode: 0o700 });
  };
  try {
    make();
  } catch (error) {
    if (error.code === 'EEXIST') return;
    if (!parents || error.code !== 'ENOENT' || dirname(path) === path) throw error;
    makeFolder(dirname(path), true);
    try {
      make();
    } catch (again) {
      if (again.code !== 'EEXIST') throw again;
    }
  }
}
