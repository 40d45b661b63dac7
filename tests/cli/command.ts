// Runs the command line in a process of its own. In: arguments; out: what it wrote, and its exit code.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));

/** Flags of a model that compiles and trains in less than a second. */
export const TINY = [
  '--layers',
  '1',
  '--d-model',
  '16',
  '--heads',
  '2',
  '--context',
  '16',
  '--experts',
  '4',
  '--d-ff',
  '16',
  '--batch',
  '4',
];

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Running {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  readonly output: () => string;
}

export function start(...args: readonly string[]): Running {
  const child = spawn(process.execPath, ['--conditions=dynamoe-source', main, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '',
    stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const ended = once(child, 'close').then(([code]: (number | null)[]) => ({ code, stdout, stderr }));
  return { child, ended, output: () => stdout };
}

export const command = (...args: readonly string[]): Promise<Ended> => start(...args).ended;

export interface Event {
  readonly event: string;
  readonly step: number;
  readonly [key: string]: unknown;
}

/** Every line of stdout as JSON; fails on anything else. */
export const eventsOf = (stdout: string): Event[] =>
  stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Event);

export const lossesOf = (stdout: string): Map<number, unknown> =>
  new Map(
    eventsOf(stdout)
      .filter((e) => e.event === 'step')
      .map((e) => [e.step, e['loss']]),
  );

/** A file of text with some structure, about `bytes` long. */
export async function writeText(folder: string, bytes = 20_000): Promise<string> {
  const path = join(folder, 'text.txt'),
    words = 'the quick brown fox jumps over a lazy dog while many experts wait in the shade'.split(' ');
  let text = '',
    state = 1;
  while (text.length < bytes) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    text += words[(state >>> 16) % words.length] + ((state >>> 8) % 9 === 0 ? '.\n' : ' ');
  }
  await writeFile(path, text);
  return path;
}
