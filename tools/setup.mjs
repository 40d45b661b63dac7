// Set-up of a checkout: installs what package-lock.json says, unless that was done. Plain JavaScript for Node 20.
import { spawnSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const time = (path) => (existsSync(root + path) ? statSync(root + path).mtimeMs : -1);

// npm writes node_modules/.package-lock.json at the end of an installation.
if (time('node_modules/.package-lock.json') < time('package-lock.json')) {
  console.error('dynamoe: installing the locked packages (npm ci)');
  // Errors only: npm would warn that Node 20 is older than what the published package asks for.
  const { status, error } = spawnSync('npm', ['ci', '--loglevel=error', '--no-progress'], {
    cwd: root,
    stdio: ['ignore', 2, 2],
    shell: process.platform === 'win32',
  });
  if (status !== 0) {
    console.error(`dynamoe: npm ci failed${error === undefined ? '' : `: ${error.message}`}`);
    console.error('dynamoe: the first run needs the npm registry; is there a network, or a proxy to configure?');
    process.exit(1);
  }
}
