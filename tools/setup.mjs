// Sets up a checkout: installs the packages of package-lock.json if they are not installed. This is plain JavaScript
// for Node 20.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { nodePath } from './runtime/launch.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));

if (!installed()) {
  console.error('dynamoe: installing the locked packages (npm ci)');
  // Only errors are printed: npm would warn that Node 20 is older than the version that the published package needs.
  const options = ['--include=dev', '--include=optional', '--loglevel=error', '--no-progress'];
  const { status, error } = spawnSync('npm', ['ci', ...options], {
    cwd: root,
    stdio: ['ignore', 2, 2],
    shell: process.platform === 'win32',
  });
  if (status !== 0) {
    console.error(`dynamoe: npm ci failed${error === undefined ? '' : `: ${error.message}`}`);
    console.error('dynamoe: the first run needs the npm registry; is there a network, or a proxy to configure?');
    process.exit(1);
  }
  checkNode();
}

/**
 * Whether node_modules contains the packages of package-lock.json. npm writes a list of them at the end of an
 * installation.
 */
function installed() {
  const packages = (path) => (existsSync(root + path) ? JSON.parse(readFileSync(root + path, 'utf8')).packages : {});
  const there = packages('node_modules/.package-lock.json');
  for (const [path, { integrity, optional }] of Object.entries(packages('package-lock.json'))) {
    if (path === '') continue; // the project itself
    // Optional packages are for other platforms, or the Node of this one.
    if (path in there ? there[path].integrity !== integrity : !optional) return false;
  }
  try {
    return existsSync(nodePath());
  } catch {
    return false;
  }
}

/** Reports the problem if the packaged Node 24 is missing or does not run (for example because of another libc). */
function checkNode() {
  try {
    const node = nodePath();
    const { status, error, stderr } = spawnSync(node, ['--version'], { encoding: 'utf8' });
    if (status === 0) return;
    throw new Error(
      `${node} does not run here: ${error?.message ?? stderr.trim()}\n  on this system install Node ` +
        `24 or newer, delete that file's package from node_modules, and run again`,
    );
  } catch (error) {
    console.error(`dynamoe: ${error.message}`);
    process.exit(1);
  }
}
