// This module is loaded before a command that an attack starts. It counts the command's system calls (files, memory,
// compilers, threads) and can make one of them fail. In: DYNAMOE_CAMPAIGN_INJECT, an Injection as JSON. Out: the calls,
// one JSON line each, in the file that the Injection names.
import { ChildProcess } from 'node:child_process';
import fs from 'node:fs';
import { createRequire, syncBuiltinESMExports } from 'node:module';
import { basename, relative } from 'node:path';
import type { Worker } from 'node:worker_threads';
import koffi from 'koffi';
import { UserError } from '../src/base/errors.ts';
import { WasmDevice } from '../src/device/wasm/wasm.ts';
import { isTemporary } from '../src/io/atomic.ts';
import { isLock } from '../src/io/lock.ts';

/**
 * A system call: its operation, the kind of its target, and its number among calls with the same operation and target.
 */
export interface Point {
  readonly op: string;
  readonly on: string;
  readonly nth: number;
}

/**
 * How the call fails. code: the code of the system error. torn: half of the bytes are written before the error. short:
 * fewer bytes are written than requested, which is not an error. swallowed: the write reports success and writes
 * nothing.
 */
export interface Failure {
  readonly code: string;
  readonly torn?: boolean;
  readonly short?: boolean;
  readonly swallowed?: boolean;
}

export interface Injection {
  /** Only calls on files in these folders are counted. */
  readonly folders: readonly string[];
  /** The file to which calls are written. */
  readonly log: string;
  /** Inserts a known fault for the campaign's own test: the second write of every checkpoint is lost. */
  readonly lossy?: boolean;
  /** The call that fails; null if none fails. */
  readonly fail: (Point & Failure) | null;
}

const MESSAGES: Readonly<Record<string, string>> = {
  ENOSPC: 'no space left on device',
  EROFS: 'read-only file system',
  EIO: 'i/o error',
  EMFILE: 'too many open files',
  EACCES: 'permission denied',
  EAGAIN: 'resource temporarily unavailable',
};

const given = process.env['DYNAMOE_CAMPAIGN_INJECT'];
if (given !== undefined) install(JSON.parse(given) as Injection);

function install({ folders, log, fail, lossy = false }: Injection): void {
  const file = fs.openSync(log, 'a'),
    writeSync = fs.writeSync,
    counts = new Map<string, number>();
  // The kind of a file: its path without process ids and hashes, which differ from run to run.
  const kind = (path: string): string | null => {
    const folder = folders.find((f) => path === f || path.startsWith(`${f}/`)),
      name = basename(path);
    if (folder === undefined) return null;
    if (path === folder) return name.includes('.') ? name : 'folder';
    if (isLock(name)) return 'lock';
    const bare = isTemporary(name)
      ? name.replace(/^\.(.+)\.\d+-[0-9a-f]{8}\.tmp$/, '$1.tmp')
      : name.replace(/\.\d+\.\d+\.tmp$/, '.tmp');
    return relative(folder, path)
      .replace(name, bare)
      .replaceAll(/\bwork-\w+/g, 'work')
      .replaceAll(/[0-9a-f]{8,}/g, '#')
      .replace(/tfevents\..*/, 'tfevents');
  };
  /** Counts the call. Returns its failure if it is the call that must fail. */
  const due = (op: string, on: string | null): Failure | null => {
    if (on === null) return null;
    const key = `${op} ${on}`,
      nth = (counts.get(key) ?? 0) + 1;
    counts.set(key, nth);
    writeSync(file, `${JSON.stringify({ op, on, nth })}\n`);
    if (lossy && op === 'write' && on.startsWith('.step-') && nth === 2) return { code: '', swallowed: true };
    return fail?.op === op && fail.on === on && fail.nth === nth ? fail : null;
  };
  const error = ({ code }: Failure, syscall: string, path?: string): NodeJS.ErrnoException =>
    Object.assign(
      new Error(`${code}: ${MESSAGES[code] ?? 'failed'}, ${syscall}${path === undefined ? '' : ` '${path}'`}`),
      { code, syscall, ...(path !== undefined && { path }) },
    );

  const paths = new WeakMap<object, string>(),
    patched = new Set<object>();
  type Call = (...args: unknown[]) => unknown;
  const replace = (
    object: object,
    name: string,
    make: (real: Call) => (this: unknown, ...args: unknown[]) => unknown,
  ): void => {
    const real = (object as Record<string, Call>)[name];
    (object as Record<string, unknown>)[name] = make(real);
  };
  const text = (path: unknown): string | null =>
    typeof path === 'string' ? path : path instanceof URL ? path.pathname : null;
  const of = (path: unknown): string | null => {
    const p = text(path);
    return p === null ? null : kind(p);
  };

  const promised = fs.promises as unknown as object;
  for (const name of ['mkdir', 'rename', 'unlink', 'readdir', 'stat', 'readFile', 'rm', 'mkdtemp']) {
    replace(
      promised,
      name,
      (real) =>
        function (...args) {
          const path = name === 'rename' ? args[1] : args[0],
            failure = due(name, of(path));
          return failure ? Promise.reject(error(failure, name, String(path))) : real(...args);
        },
    );
  }
  replace(
    promised,
    'writeFile',
    (real) =>
      async function (...args) {
        const failure = due('writeFile', of(args[0]));
        if (failure?.torn) {
          const whole = String(args[1]);
          await real(args[0], whole.slice(0, whole.length >> 1), args[2]);
        }
        if (failure) throw error(failure, 'write', String(args[0]));
        return real(...args);
      },
  );
  replace(
    promised,
    'open',
    (real) =>
      async function (...args) {
        const on = of(args[0]),
          writes = args[1] !== undefined && args[1] !== 'r',
          failure = due(writes ? 'open to write' : 'open to read', on);
        if (failure) throw error(failure, 'open', String(args[0]));
        const handle = (await real(...args)) as fs.promises.FileHandle;
        if (on !== null) paths.set(handle, String(args[0]));
        patchHandle(Object.getPrototypeOf(handle) as object);
        return handle;
      },
  );
  function patchHandle(prototype: object): void {
    if (patched.has(prototype)) return;
    patched.add(prototype);
    const on = (handle: unknown): string | null => of(paths.get(handle as object));
    for (const name of ['sync', 'truncate', 'stat', 'read']) {
      replace(
        prototype,
        name,
        (real) =>
          function (...args) {
            const failure = due(name, on(this));
            return failure ? Promise.reject(error(failure, name === 'sync' ? 'fsync' : name)) : real.apply(this, args);
          },
      );
    }
    replace(
      prototype,
      'write',
      (real) =>
        async function (...args) {
          const failure = due('write', on(this));
          if (!failure) return real.apply(this, args);
          const [bytes, at, length] = args as [Uint8Array, number, number];
          if (failure.swallowed) return { bytesWritten: length, buffer: bytes };
          if (failure.short || failure.torn) {
            const written = (await real.call(this, bytes, at, Math.max(1, length >> 1))) as { bytesWritten: number };
            if (failure.short) return written;
          }
          throw error(failure, 'write');
        },
    );
  }
  let appending = false; // which writes by other calls of the module, and is one call
  replace(
    fs,
    'appendFileSync',
    (real) =>
      function (...args) {
        const path = typeof args[0] === 'number' ? ofDescriptor(args[0]) : text(args[0]),
          failure = due('append', path === null ? null : kind(path));
        appending = true;
        try {
          if (failure?.torn) {
            const whole = Buffer.from(args[1] as string);
            real(args[0], whole.subarray(0, whole.length >> 1));
          }
          if (failure) throw error(failure, 'write');
          return real(...args);
        } finally {
          appending = false;
        }
      },
  );
  const readlink = fs.readlinkSync;
  function ofDescriptor(fd: number): string | null {
    try {
      return readlink(`/proc/self/fd/${fd}`);
    } catch {
      return null;
    }
  }
  for (const name of [
    'mkdirSync',
    'renameSync',
    'writeFileSync',
    'unlinkSync',
    'truncateSync',
    'readFileSync',
    'statSync',
  ]) {
    replace(
      fs,
      name,
      (real) =>
        function (...args) {
          const path = name === 'renameSync' ? args[1] : args[0],
            failure = appending ? null : due(name.replace('Sync', ''), of(path));
          if (failure) throw error(failure, name.replace('Sync', ''), String(path));
          return real(...args);
        },
    );
  }

  // A failing compiler is replaced by `false`: a compiler without memory or disk also exits with an error code.
  const spawn = (ChildProcess.prototype as unknown as { spawn: Call }).spawn;
  (ChildProcess.prototype as unknown as { spawn: Call }).spawn = function (this: unknown, ...args) {
    const options = args[0] as { file: string; args: string[] },
      compiles = options.args.includes('-shared'),
      failure = compiles ? due('compile', 'C compiler') : null;
    return spawn.call(this, failure ? { ...options, file: '/bin/false', args: ['false'] } : options);
  };

  // Memory and threads of the native device. Its C functions return 0 if they cannot get any.
  const load = koffi.load;
  koffi.load = ((...args: Parameters<typeof load>) => {
    const library = load(...args),
      func = library.func.bind(library) as Call;
    const counted = (...signature: unknown[]): unknown => {
      const real = func(...signature) as Call & object,
        called = /dm_(alloc|pool_create)\(/.exec(String(signature[0]))?.[1];
      if (called === undefined) return real;
      return new Proxy(real, {
        apply: (target, self, values) =>
          due(called === 'alloc' ? 'allocate' : 'start threads', 'native device')
            ? 0
            : Reflect.apply(target, self, values),
      });
    };
    // The properties of the library object cannot be replaced, so this is a copy.
    return new Proxy({}, { get: (_, name) => (name === 'func' ? counted : (Reflect.get(library, name) as unknown)) });
  }) as typeof load;

  // Memory and threads of the wasm device.
  const RealMemory = WebAssembly.Memory;
  WebAssembly.Memory = new Proxy(RealMemory, {
    construct(target, args: [WebAssembly.MemoryDescriptor]) {
      if (due('reserve memory', 'wasm device')) throw new RangeError('WebAssembly.Memory(): could not allocate memory');
      return new target(...args);
    },
  });
  replace(
    WasmDevice.prototype,
    'alloc',
    (real) =>
      function (...args) {
        if (due('allocate', 'wasm device'))
          throw new UserError(`out of memory: ${String(args[0])} bytes could not be had`, 'a smaller model or batch');
        return real.apply(this, args);
      },
  );
  const compile = WebAssembly.compile;
  WebAssembly.compile = (bytes: BufferSource) =>
    due('compile', 'wasm device')
      ? Promise.reject(new RangeError('WebAssembly.compile(): Out of memory'))
      : compile(bytes);
  const threads = createRequire(import.meta.url)('node:worker_threads') as { Worker: typeof Worker };
  threads.Worker = new Proxy(threads.Worker, {
    construct(target, args: ConstructorParameters<typeof Worker>) {
      if (due('start threads', 'wasm device'))
        throw Object.assign(new Error('Worker initialization failure: EAGAIN'), { code: 'ERR_WORKER_INIT_FAILED' });
      return new target(...args);
    },
  });
  syncBuiltinESMExports();
}
