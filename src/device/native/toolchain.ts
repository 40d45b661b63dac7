// The system's C compiler: finding it, what it is, and compiling one file to a shared object.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { arch, cpus, platform } from 'node:os';
import { promisify } from 'node:util';
import { hashHex } from '../../base/hash.ts';

const run = promisify(execFile);

export interface Toolchain {
  readonly command: string;
  readonly flags: readonly string[];
  /** Hash of compiler version, flags and CPU: part of every cache key. */
  readonly id: string;
  readonly version: string;
}

const FLAGS = ['-O3', '-march=native', '-ffp-contract=off', '-fno-math-errno', '-fno-trapping-math', '-std=gnu11', '-fPIC', '-shared', '-pthread', '-w'];

let found: Promise<Toolchain | null> | undefined;

/** The compiler named by CC, else cc, gcc or clang; null if there is none that answers. */
export function findToolchain(): Promise<Toolchain | null> {
  found ??= search();
  return found;
}

async function search(): Promise<Toolchain | null> {
  const named = process.env['CC']?.trim();
  for (const command of named ? [named] : ['cc', 'gcc', 'clang']) {
    try {
      const { stdout } = await run(command, ['--version']);
      const version = stdout.split('\n')[0];
      return { command, flags: FLAGS, version, id: hashHex([version, FLAGS.join(' '), cpuFeatures()].join('\n')) };
    } catch { /* not this one */ }
  }
  return null;
}

function cpuFeatures(): string {
  let flags = '';
  try {
    flags = /^(?:flags|Features)\s*:.*$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[0] ?? '';
  } catch { /* not Linux: the model's name must do */ }
  return [platform(), arch(), cpus()[0]?.model ?? '', flags].join('\n');
}

/** Compiles `sources` into the shared object `target`; throws with the compiler's first error lines. */
export async function compileShared(tool: Toolchain, sources: readonly string[], include: string, target: string): Promise<void> {
  try {
    await run(tool.command, [...tool.flags, '-iquote', include, '-o', target, ...sources, '-lm', '-ldl'], { maxBuffer: 1 << 26 });
  } catch (error) {
    const text = error instanceof Error && 'stderr' in error ? String(error.stderr) : String(error);
    const lines = text.split('\n').filter((l) => /error|undefined|cannot/i.test(l)).slice(0, 5);
    throw new Error(`${tool.command} failed on ${sources.join(', ')}:\n${lines.join('\n') || text.slice(0, 500)}`);
  }
}
