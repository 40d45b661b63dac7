// Many ranks over MPI: finds out how this process was started, compiles and opens the library (mpi/mpi.c), calls it.
import { hash } from 'node:crypto';
import { writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import type Koffi from 'koffi';
import { UserError } from '../../base/errors.ts';
import { kernelCache } from '../cache.ts';
import { hasLargeStack, loadKoffi } from '../koffi.ts';
import { RanksError, type RankCounters, type Ranks } from '../ranks.ts';
import { loadDriver } from './driver.ts';
import { findLauncher, type Launched } from './mpi/launcher.ts';
import { compileMpi, findMpicc } from './mpi/library.ts';
import { StoppedRank } from './mpi/stopped.ts';
import { findToolchain, noCompiler } from './toolchain.ts';

const { version } = createRequire(import.meta.url)('../../../package.json') as { version: string };

/** After this many seconds without a sign of life, a rank is taken for gone. */
const SILENCE = 5;
/** A live rank that does not come for this many seconds, and does not compile, ends the run. */
const PATIENCE = 600;
/** Longer texts are compared, and shown in messages, by their hash. */
const SHOWN = 100;

type Library = ReturnType<typeof functionsOf>;

function functionsOf(koffi: typeof Koffi, path: string) {
  // Plug-ins of MPI may look for MPI's functions among those of the process.
  const lib = koffi.load(path, { global: true }),
    f = <T>(text: string): T => lib.func(text) as unknown as T;
  return {
    open: f<(silence: number, patience: number, variable: string, rank: number, onHost: number) => number>(
      'int dm_ranks_open(double silence, double patience, const char *variable, int rank, int on_host)',
    ),
    start: f<() => void>('void dm_ranks_start()'),
    library: f<() => string>('const char *dm_ranks_library()'),
    error: f<() => string>('const char *dm_ranks_error()'),
    number: f<(which: number) => number | bigint>('int64_t dm_ranks_number(int which)'),
    threads: f<(n: number) => void>('void dm_ranks_threads(int n)'),
    compiles: f<(more: number) => void>('void dm_ranks_compiles(int more)'),
    at: f<(step: number, plan: string) => void>('void dm_ranks_at(int64_t step, const char *plan)'),
    begin: f<(what: string, bytes: number, all: BigInt64Array) => number>(
      'int dm_ranks_begin(const char *what, int64_t bytes, void *all)',
    ),
    take: f<(what: string, from: Uint8Array, into: Uint8Array, offsets: BigInt64Array) => void>(
      'void dm_ranks_take(const char *what, const void *from, void *into, const void *offsets)',
    ),
    abort: f<(reason: string, shared: number) => never>('void dm_ranks_abort(const char *reason, int shared)'),
    close: f<() => void>('void dm_ranks_close()'),
  };
}

export class MpiRanks implements Ranks {
  readonly rank: number;
  readonly size: number;
  readonly onHost: { readonly rank: number; readonly size: number };
  readonly description: string;
  /** The path of the shared object, which also has the functions of collective steps. */
  readonly object: string;
  readonly #library: Library;
  #closed = false;
  /** What has ended this process, if it was an error that nobody caught. */
  #uncaught: unknown = null;

  constructor(library: Library, object: string, mpi: string) {
    const number = (which: number): number => Number(library.number(which)),
      hosts = number(4);
    this.#library = library;
    this.object = object;
    this.rank = number(0);
    this.size = number(1);
    this.onHost = { rank: number(2), size: number(3) };
    this.description = `${mpi}, ${this.size} ranks on ${hosts} ${hosts === 1 ? 'host' : 'hosts'}`;
    process.on('uncaughtExceptionMonitor', this.#onUncaught);
    process.on('beforeExit', this.#onFinished);
    process.on('exit', this.#onExit);
  }

  readonly #onUncaught = (error: unknown): void => {
    this.#uncaught = error;
  };
  readonly #onFinished = (): void => {
    this.close();
  };
  readonly #onExit = (code: number): void => {
    this.abort(this.#uncaught ?? new RanksError(`this process ends before the others (exit status ${code})`));
  };

  get counters(): RankCounters {
    const [sent, waited, exchanges] = [5, 6, 7].map((which) => Number(this.#library.number(which)));
    return { sent, waitedMs: waited / 1e6, exchanges };
  }

  same(what: string, text: string): void {
    const shown = text.length > SHOWN ? `a text with the hash ${hash('sha256', text).slice(0, 12)}` : text,
      all = this.#call(`compare ${what}`, Buffer.from(text.length > SHOWN ? shown + hash('sha256', text) : text)),
      texts = all.map((bytes) => Buffer.from(bytes).toString()),
      different = [...new Set(texts)];
    if (different.length === 1) return;
    const parts = different.map((t) => {
      const who = texts.flatMap((other, rank) => (other === t ? [rank] : []));
      return `${who.length === 1 ? 'rank' : 'ranks'} ${who.join(', ')}: ${t.length > SHOWN ? t.slice(0, -64) : t}`;
    });
    throw new RanksError(`the ranks differ in ${what}: ${parts.join('; ')}`, undefined, true);
  }

  gather(own: Uint8Array): Uint8Array[] {
    return this.#call('gather', own);
  }

  broadcast(from: number, data: Uint8Array): Uint8Array {
    if (!(from >= 0 && from < this.size)) throw new RanksError(`there is no rank ${from} among ${this.size}`);
    return this.#call(`broadcast from rank ${from}`, this.rank === from ? data : new Uint8Array(0))[from];
  }

  #call(what: string, own: Uint8Array): Uint8Array[] {
    const sizes = this.#begin(what, own.byteLength),
      offsets = new BigInt64Array(this.size);
    let total = 0;
    sizes.forEach((size, i) => {
      offsets[i] = BigInt(total);
      total += Math.ceil(size / 8) * 8;
    });
    const into = new Uint8Array(total);
    this.#library.take(what, own, into, offsets);
    return sizes.map((size, i) => into.subarray(Number(offsets[i]), Number(offsets[i]) + size));
  }

  /** The sizes that the ranks give. */
  #begin(what: string, bytes: number): number[] {
    if (this.#closed) throw new Error(`${what}: the ranks are closed`);
    const sizes = new BigInt64Array(this.size);
    if (this.#library.begin(what, bytes, sizes) !== 0) throw new RanksError(this.#library.error(), undefined, true);
    return Array.from(sizes, Number);
  }

  at(step: number, plan: string): void {
    this.#library.at(step, plan);
  }

  /** Each rank runs this many threads: ranks that have enough cores wait without giving theirs up. */
  useThreads(threads: number): void {
    this.#library.threads(threads);
  }

  /** While this rank compiles, the others wait for it without a limit. */
  async compiling<T>(work: () => Promise<T>): Promise<T> {
    this.#library.compiles(1);
    try {
      return await work();
    } finally {
      this.#library.compiles(-1);
    }
  }

  abort(error: unknown): never {
    this.#leave();
    const shared = error instanceof RanksError && error.shared;
    // The stack of an error that is no user's.
    if (error instanceof Error && !(error instanceof UserError) && error.stack !== undefined)
      writeSync(2, `${error.stack}\n`);
    return this.#library.abort(lineOf(error), shared ? 1 : 0);
  }

  close(): void {
    if (this.#closed) return;
    this.#begin('close', 0);
    this.#leave();
    this.#library.close();
  }

  #leave(): void {
    this.#closed = true;
    process.off('uncaughtExceptionMonitor', this.#onUncaught);
    process.off('beforeExit', this.#onFinished);
    process.off('exit', this.#onExit);
  }
}

/** An error as one line: the hint of a UserError follows its message. */
function lineOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const text = error instanceof UserError ? error.message : `${error.name}: ${error.message}`;
  return text.replace(/\s*\n\s*/g, '; ');
}

/** The name and the version of a library, such as `Open MPI 4.1.4`; null: its text has another form. */
export function mpiOf(text: string): string | null {
  const found = /(Open MPI) v([\w.-]+)/.exec(text) ?? /(MPICH|MVAPICH2?) Version\s*:\s*([\w.-]+)/.exec(text);
  return found && `${found[1]} ${found[2]}`;
}

let opened: Promise<MpiRanks | null> | undefined;

/**
 * The ranks that `mpirun` or `srun` has started, of which this process is one; null if it was started alone. Compiles
 * the library that it needs, once on each host. Throws RanksError if there is no mpicc of the launcher's MPI, or the
 * launcher and the library do not belong together. say: receives a line if compiled files are not in their usual place.
 */
export function openRanks(say: (line: string) => void = console.warn): Promise<MpiRanks | null> {
  return (opened ??= open(say));
}

async function open(say: (line: string) => void): Promise<MpiRanks | null> {
  const launched = findLauncher(process.env);
  if (!launched) return null;
  try {
    return await join(launched, say);
  } catch (error) {
    if (launched.onHost === 0 || error instanceof StoppedRank || !(error instanceof UserError)) throw error;
    // Ranks of one host fail for the same reason. The first one says so, and the launcher ends the others, or they end.
    await sleep(1000);
    throw new RanksError(error.message, undefined, true);
  }
}

async function join(launched: Launched, say: (line: string) => void): Promise<MpiRanks> {
  const silence = seconds('DYNAMOE_RANKS_SILENCE', SILENCE),
    patience = seconds('DYNAMOE_RANKS_PATIENCE', PATIENCE);
  const koffi = await loadKoffi(),
    mpicc = await findMpicc(launched),
    tool = await findToolchain();
  if (!tool) throw noCompiler();
  if (!hasLargeStack(koffi))
    throw new RanksError(
      'this process has called C through koffi before it opened its ranks, and MPI needs a larger stack',
      'open the ranks first',
    );
  const object = await compileMpi(mpicc, kernelCache(say), launched, silence, () => loadDriver(tool, say)),
    library = functionsOf(koffi, object),
    found = mpiOf(library.library()) ?? mpicc.version,
    start =
      `start the ranks with the mpirun of ${mpicc.family} or with ` +
      `srun --mpi=${mpicc.family === 'MPICH' ? 'pmi2' : 'pmix'}, or set MPICC to the mpicc that belongs to ` +
      `${launched.by}; with DYNAMOE_RANKS=off each process runs alone`;
  if (found !== mpicc.version)
    throw new RanksError(
      `${mpicc.command} compiles for ${mpicc.version}, but ${found} was loaded`,
      'LD_LIBRARY_PATH must not name the libraries of another MPI',
    );
  const size = library.open(silence, patience, launched.variable, launched.rank, launched.onHost);
  if (size === 0) throw new RanksError(`${found}: ${library.error()}`, start);
  if (size !== launched.size)
    throw new RanksError(
      `${launched.by} started ${launched.size} ranks, but ${found} sees ${size}: the launcher is of another MPI`,
      start,
    );
  library.start();
  const ranks = new MpiRanks(library, object, found);
  ranks.same('the versions of dynamoe and MPI', `dynamoe ${version} with ${found}`);
  return ranks;
}

/** A number of seconds from an environment variable. */
function seconds(name: string, usual: number): number {
  const text = process.env[name];
  if (text === undefined || text === '') return usual;
  const value = Number(text);
  if (value > 0) return value;
  throw new RanksError(`${name} is ${JSON.stringify(text)}`, 'it is a number of seconds above 0');
}
