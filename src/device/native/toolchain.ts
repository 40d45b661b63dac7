// The system's C compiler: finds it, identifies it, and compiles files to a shared object.
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { arch, cpus, platform } from 'node:os';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { UserError } from '../../base/errors.ts';
import { hashHex } from '../../base/hash.ts';

const run = promisify(execFile);

export interface Toolchain {
  readonly command: string;
  /** Arguments in CC, which come before ours. */
  readonly args: readonly string[];
  readonly flags: readonly string[];
  /** Hash of the command, the compiler's version, our flags and the CPU; part of every cache key. */
  readonly id: string;
  readonly version: string;
}

const LINES = 5; // error lines of the compiler that are shown
const ANSWER_MS = 30_000; // time limit for `--version`
const FLAGS = [
  '-O3',
  '-march=native',
  '-ffp-contract=off',
  '-fno-math-errno',
  '-fno-trapping-math',
  '-std=gnu11',
  '-fPIC',
  '-shared',
  '-pthread',
  '-w',
];

let found: Promise<Toolchain | null> | undefined;

/**
 * The compiler in CC, which may have arguments ('ccache gcc', 'gcc -m64'), otherwise cc, gcc or clang; null: none was
 * found. Rejects with a UserError if CC is set but is not a working compiler.
 */
export function findToolchain(): Promise<Toolchain | null> {
  found ??= search();
  return found;
}

async function search(): Promise<Toolchain | null> {
  const named = process.env['CC']?.trim();
  if (named) {
    const words = splitCommand(named);
    return asked(words).catch((error: unknown) => {
      throw new UserError(
        `CC is ${JSON.stringify(named)}: ${answerOf(words[0], error)}`,
        'CC names a C compiler, with arguments if need be: CC=gcc, CC="ccache gcc"',
        error,
      );
    });
  }
  for (const command of ['cc', 'gcc', 'clang']) {
    const tool = await asked([command]).catch(() => null);
    if (tool) return tool;
  }
  return null;
}

export const noCompiler = (): UserError =>
  new UserError('no C compiler found', 'install gcc or clang, set CC, or use --device wasm');

/** Identifies a compiler, its flags and the CPU. */
export const toolId = (words: readonly string[], version: string, cpu: string): string =>
  hashHex([...words, version, FLAGS.join(' '), cpu].join('\n'));

async function asked([command, ...args]: readonly string[]): Promise<Toolchain> {
  const { stdout } = await run(command, [...args, '--version'], { timeout: ANSWER_MS });
  const version = stdout.split('\n')[0];
  return { command, args, flags: FLAGS, version, id: toolId([command, ...args], version, cpuFeatures()) };
}

function answerOf(command: string, error: unknown): string {
  const { code, killed, stderr = '' } = error as { code?: unknown; killed?: boolean; stderr?: string };
  if (code === 'ENOENT') return `there is no program ${command}`;
  if (code === 'EACCES') return `${command} may not be run`;
  const [line] = stderr.trim().split('\n');
  return killed
    ? `${command} --version gave no answer in ${ANSWER_MS / 1000} s`
    : `${command} --version failed${typeof code === 'number' ? ` (exit code ${code})` : ''}${line ? `: ${line}` : ''}`;
}

/**
 * Splits a command into words as a shell does: quotation marks and backslashes keep spaces. The path of an existing
 * file is one word.
 */
export function splitCommand(text: string): string[] {
  if (existsSync(text)) return [text];
  const words = [...text.matchAll(/(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\])+/gs)].map(([word]) =>
    word.replace(
      /'([^']*)'|"((?:\\.|[^"\\])*)"|\\(.)/gs,
      (_, single?: string, double?: string, escaped?: string) =>
        single ?? double?.replace(/\\(["\\$`])/g, '$1') ?? escaped ?? '',
    ),
  );
  return words.length > 0 ? words : [text];
}

/** The CPU's model and, on Linux, its instruction sets. */
export function cpuFeatures(): string {
  let flags = '';
  try {
    flags = /^(?:flags|Features)\s*:.*$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[0] ?? '';
  } catch {
    /* not Linux: only the model's name is known */
  }
  return [platform(), arch(), cpus()[0]?.model ?? '', flags].join('\n');
}

/**
 * Compiles `sources` into the shared object `target`. The compiler's temporary files are put beside it. Rejects with a
 * UserError that holds the first error lines.
 */
export async function compileShared(
  tool: Pick<Toolchain, 'command' | 'args' | 'flags'>,
  sources: readonly string[],
  include: string,
  target: string,
  flags: readonly string[] = [],
  hint = HINT,
): Promise<void> {
  const name = [tool.command, ...tool.args].join(' ');
  try {
    const env = { ...process.env, TMPDIR: dirname(target) };
    await run(
      tool.command,
      [...tool.args, ...tool.flags, ...flags, '-iquote', include, '-o', target, ...sources, '-lm', '-ldl'],
      { maxBuffer: 1 << 26, env },
    );
  } catch (error) {
    const text = error instanceof Error && 'stderr' in error ? String(error.stderr) : String(error);
    const all = text.split('\n').filter((l) => /error|undefined|cannot|not found|no such/i.test(l)),
      more = all.length - LINES;
    const lines = [...all.slice(0, LINES), ...(more > 0 ? [`and ${more} lines more`] : [])];
    throw new UserError(
      `${name} failed on ${sources.join(', ')}: ${lines.join('\n') || text.slice(0, 500)}`,
      hint,
      error,
    );
  }
  if (!existsSync(target)) throw new UserError(`${name} made no file from ${sources.join(', ')}`, hint);
}

const HINT =
  'the native device needs a C compiler with the headers of the C library (Debian: apt install gcc libc6-dev); ' +
  'CC names another one, --device wasm needs none';
