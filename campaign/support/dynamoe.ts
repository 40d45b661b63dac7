// Runs the command `dynamoe` in a process of its own, or by a launcher. In: arguments. Out: the process, its output,
// its exit code or signal.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));

export interface Ended {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}
export interface Started {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
}

export interface StartOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Modules that are loaded before the command. */
  readonly preload?: readonly string[];
  /** A command that starts the command, with its arguments. */
  readonly launcher?: readonly string[];
  /** Called for each line of stdout. */
  readonly line?: (line: string) => void;
}

export function start(
  args: readonly string[],
  { env = {}, preload = [], launcher = [], line }: StartOptions = {},
): Started {
  const imports = preload.flatMap((path) => ['--import', path]);
  const node = [process.execPath, '--conditions=dynamoe-source', '--no-warnings', ...imports, MAIN],
    [program, ...words] = [...launcher, ...node, ...args];
  const child = spawn(program, words, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  let stdout = '',
    stderr = '',
    rest = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    if (!line) return;
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    lines.forEach(line);
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const ended = once(child, 'close').then(([code, signal]: (number | string | null)[]) => ({
    code: code as number | null,
    signal: signal as string | null,
    stdout,
    stderr,
  }));
  return { child, ended };
}

export const command = (args: readonly string[], options?: StartOptions): Promise<Ended> => start(args, options).ended;
