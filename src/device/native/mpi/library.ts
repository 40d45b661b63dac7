// Compiles mpi.c with the mpicc that belongs to the launcher, once for each MPI, into the folder of compiled kernels.
import { execFile } from 'node:child_process';
import { hash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { RanksError } from '../../ranks.ts';
import type { KernelCache } from '../../cache.ts';
import { compileShared, splitCommand } from '../toolchain.ts';
import type { Family, Launched } from './launcher.ts';
import { watchStopped } from './stopped.ts';

const run = promisify(execFile);

const ANSWER_MS = 30_000; // time limit for questions to mpicc
const COMPILE_MS = 60_000; // a rank that waits for another one's compiler compiles itself after this
const LOOK_MS = 20;
const FLAGS = ['-O3', '-std=gnu11', '-fPIC', '-shared', '-fvisibility=hidden', '-ffp-contract=off', '-pthread', '-w'];
const PACKAGES: Readonly<Record<Family, string>> = { 'Open MPI': 'libopenmpi-dev', MPICH: 'libmpich-dev' };

const here = dirname(fileURLToPath(import.meta.url)),
  native = dirname(here);

/** An MPI for which programs can be compiled. */
export interface Mpicc {
  readonly command: string;
  readonly args: readonly string[];
  readonly family: Family;
  /** `Open MPI 4.1.4`. */
  readonly version: string;
  /** The macros of mpi.h. */
  readonly macros: string;
}

/** The MPI of a header, by its macros; null: it is of neither family. */
export function versionOf(macros: string): Pick<Mpicc, 'family' | 'version'> | null {
  const macro = (name: string): string | undefined =>
    new RegExp(`^#define ${name} "?([^"\\n]*?)"?$`, 'm').exec(macros)?.[1];
  const open = ['MAJOR', 'MINOR', 'RELEASE'].map((part) => macro(`OMPI_${part}_VERSION`));
  if (open[0] !== undefined) return { family: 'Open MPI', version: `Open MPI ${open.join('.')}` };
  for (const [name, title] of [
    ['I_MPI_VERSION', 'Intel MPI'],
    ['MVAPICH2_VERSION', 'MVAPICH2'],
    ['MVAPICH_VERSION', 'MVAPICH'],
    ['MPICH_VERSION', 'MPICH'],
  ]) {
    const version = macro(name);
    if (version !== undefined) return { family: 'MPICH', version: `${title} ${version}` };
  }
  return null;
}

/** What an mpicc says about itself; rejects if it does not run, or does not find its mpi.h. */
async function ask([command, ...args]: readonly string[]): Promise<Mpicc> {
  const { stdout } = await run(command, [...args, '-E', '-dM', '-include', 'mpi.h', '-x', 'c', '/dev/null'], {
      timeout: ANSWER_MS,
      maxBuffer: 1 << 26,
    }),
    version = versionOf(stdout);
  if (!version) throw new Error('its mpi.h is neither of Open MPI nor of MPICH');
  return { command, args, ...version, macros: stdout };
}

const installs = (family: Family | null): string =>
  `Debian: apt install ${family ? PACKAGES[family] : Object.values(PACKAGES).join(' or ')}; MPICC names the mpicc of ` +
  'an MPI that lies elsewhere';

/** The mpicc in MPICC, or the first one of the launcher's family. */
export async function findMpicc({ by, family, folder }: Launched): Promise<Mpicc> {
  const named = process.env['MPICC']?.trim();
  if (named) {
    const found = await ask(splitCommand(named)).catch((error: unknown) => {
      throw new RanksError(`MPICC is ${JSON.stringify(named)}: ${reasonOf(error)}`, installs(family));
    });
    if (family && found.family !== family)
      throw new RanksError(
        `${by} started the ranks, but MPICC (${named}) is of ${found.version}: they would not find each other`,
        `MPICC must name the mpicc of ${family}; or start the ranks with the mpirun of ${found.family}`,
      );
    return found;
  }
  const suffix = family ? `mpicc.${family.toLowerCase().replace(' ', '')}` : null,
    names = suffix === null ? ['mpicc'] : [suffix, 'mpicc'],
    others: string[] = [];
  for (const command of [...(folder === null ? [] : names.map((name) => join(folder, name))), ...names])
    try {
      const found = await ask([command]);
      if (family === null || found.family === family) return found;
      others.push(`${command} is of ${found.version}`);
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ENOENT') others.push(`${command}: ${reasonOf(error)}`);
    }
  throw new RanksError(
    `${by} started the ranks, but there is no mpicc${family ? ` of ${family}` : ''}` +
      (others.length > 0 ? ` (${others.join('; ')})` : ''),
    installs(family),
  );
}

function reasonOf(error: unknown): string {
  const { code, killed, stderr = '' } = error as { code?: unknown; killed?: boolean; stderr?: string };
  if (code === 'ENOENT') return 'there is no such program';
  if (killed) return `it gave no answer in ${ANSWER_MS / 1000} s`;
  const [line] = stderr
    .split('\n')
    .filter((l) => /error|not found/i.test(l))
    .concat(stderr.split('\n'));
  return line || (error instanceof Error ? error.message : String(error));
}

/**
 * The path of the compiled library. On each host one rank compiles it, the others wait for it. `before`: what that rank
 * does first, so that the others find it done. Throws StoppedRank if a rank of this host was stopped for `silence`
 * seconds meanwhile.
 */
export async function compileMpi(
  mpicc: Mpicc,
  cache: KernelCache,
  launched: Launched,
  silence: number,
  before: () => Promise<unknown>,
): Promise<string> {
  const texts = readdirSync(here)
      .filter((name) => /\.[ch]$/.test(name))
      .sort()
      .concat('../runtime.h', '../wait.h')
      .map((name) => readFileSync(join(here, name), 'utf8')),
    words = [mpicc.command, ...mpicc.args],
    key = `mpi_${hash('sha256', [...words, ...FLAGS, mpicc.macros, ...texts].join('\n'))}`;
  const made = launched.onHost > 0 && cache.isShared ? await waitFor(() => cache.find(key), launched, silence) : null;
  if (made !== null) return made;
  await before();
  const tool = { command: mpicc.command, args: mpicc.args, flags: FLAGS },
    hint = `the mpicc of the launcher must be able to compile C; ${installs(mpicc.family)}`;
  return cache.load(
    key,
    (target) => compileShared(tool, [join(here, 'mpi.c')], native, target, [], hint),
    (path) => path,
  );
}

/** Waits until another rank has compiled the library; null: it takes too long. */
async function waitFor(find: () => string | null, launched: Launched, silence: number): Promise<string | null> {
  const end = performance.now() + COMPILE_MS,
    over = new AbortController(),
    stopped = watchStopped(launched, silence, over.signal);
  try {
    while (performance.now() < end) {
      const path = find();
      if (path !== null) return path;
      await Promise.race([sleep(LOOK_MS), stopped]);
    }
    return null;
  } finally {
    over.abort();
  }
}
