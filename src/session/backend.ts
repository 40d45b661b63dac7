// What executes a session's graphs: a device with compiled programs, or the float64 reference that interprets graphs.
import { ShapeError, UserError } from '../base/errors.ts';
import { showType } from '../base/shape.ts';
import type { Graph } from '../graph/graph.ts';
import type { Edits } from '../graph/retype.ts';
import type { DeviceInfo } from '../device/device.ts';
import { NORMALS } from '../device/normals.ts';
import { compileGraph, newMemo, recompileGraph, type Compiled } from '../pipeline.ts';
import { showBytes } from '../plan/print.ts';
import type { Program } from '../plan/program.ts';
import { isCache, type Caches, type Executor, type Runnable } from '../run/executor.ts';
import { ProgramExecutor, type LoadedProgram } from '../run/program.ts';
import type { Reference } from '../run/reference.ts';
import { ranksOf } from '../schedule/target.ts';
import { DEVICE_NAMES, isDevice, type DeviceName, type Files, type Platform } from './platform.ts';
import type { Group } from './ranks.ts';
import type { NewParameters } from './states.ts';

export interface Backend {
  readonly executor: Executor;
  /** Plans the memory of a graph. Compiles nothing and allocates nothing. */
  plan(graph: Graph): Planned;
  /**
   * The same for a graph that differs from a compiled one only in sizes; null where the graph must be lowered anew.
   */
  replan(before: Compiled, edits: Edits): Planned | null;
  /**
   * Throws MemoryError if there is no longer enough memory for a loaded program, or for the caches that a run of it
   * would create.
   */
  admit(program: Runnable, caches?: Caches): void;
  /**
   * Memory limit for weights, optimizer and activations in bytes. given: the caller set the limit; otherwise it is the
   * memory that is free now.
   */
  budget(): { readonly bytes: number; readonly given: boolean };
  /** Bytes that states may take, existing states included. why: in brackets, why the device allows no more; or ''. */
  room(): { readonly bytes: number; readonly why: string };
  /** Reads and writes checkpoint files; null on platforms without files. */
  readonly files: Files | null;
  /** The ranks of which this process is one; null: one process. */
  readonly group: Group | null;
}

/** A graph with its memory planned. */
export interface Planned {
  /** Bytes of arena, inputs, outputs and constants: all but the states. */
  readonly bytes: number;
  /** null on the reference. */
  readonly compiled: Compiled | null;
  /**
   * Bytes that the session would hold with this plan: the plan's own bytes and all states (also those that the plan
   * would create) except caches.
   */
  needs(): number;
  /** Starts to compile the kernels. Allocates no device memory, so steps may run at the same time. */
  begin(): Compiling;
}

/** A graph whose kernels are being compiled. */
export interface Compiling {
  /** Resolves when the kernels are compiled. */
  readonly ready: Promise<void>;
  /** Planned bytes of arena, inputs, outputs and constants. */
  readonly bytes: number;
  /** null on the reference. */
  readonly compiled: Compiled | null;
  /**
   * Allocates the arena and the missing states. Throws UserError, with nothing created, if there is too little memory.
   * `create` makes the states that the graph lacks, and returns the parameters that need initial values. runsNext: the
   * program runs next, so arena memory that only other programs need may be freed.
   */
  reserve(create: (graph: Graph) => NewParameters, runsNext: boolean): NewParameters;
  /** Loads the program. Call it between steps, after `ready` and `reserve`. */
  load(): Runnable;
}

export interface BackendOptions {
  readonly device: DeviceName;
  readonly threads?: number | undefined;
  /** Memory limit for weights, optimizer and activations in bytes; default: what the machine has free. */
  readonly memory?: number | undefined;
  /** Whether programs change parameters; default true. If none does, the layout of weights may be one for reading. */
  readonly trains?: boolean | undefined;
  /** Receives one line when `auto` chooses a GPU, or could not choose the fastest device; default console.warn. */
  readonly say?: ((line: string) => void) | undefined;
  readonly group?: Group | null | undefined;
}

/** Bytes that are free on this host, for each of its ranks. */
export const freeMemory = (platform: Platform, group: Group | null): number =>
  platform.freeMemory() / (group?.ranks.onHost.size ?? 1);

export async function openBackend(platform: Platform, options: BackendOptions, reference: Reference): Promise<Backend> {
  const { group = null } = options,
    ranks = group?.ranks,
    { device, threads = platform.threads(ranks), memory, say = console.warn, trains = true } = options,
    { files } = platform;
  if (!isDevice(device)) throw new UserError(`there is no device named ${String(device)}`, `one of ${DEVICE_NAMES}`);
  if (!Number.isInteger(threads) || threads < 1 || threads > 256)
    throw new UserError(`threads must be a whole number from 1 to 256, got ${threads}`);
  if (device === 'reference') {
    const { ReferenceExecutor } = reference.here ?? (await reference.load()),
      executor = new ReferenceExecutor();
    const begin = (graph: Graph): Compiling => ({
      ready: Promise.resolve(),
      bytes: 0,
      compiled: null,
      reserve: (create) => create(graph),
      load: () => executor.load(graph),
    });
    return {
      executor,
      files,
      group,
      admit: () => undefined,
      replan: () => null,
      budget: () => ({ bytes: Infinity, given: true }),
      room: () => ({ bytes: memory ?? platform.freeMemory() + executor.stateBytes(), why: '' }),
      plan: (graph) => ({ bytes: 0, compiled: null, needs: () => 0, begin: () => begin(graph) }),
    };
  }
  const onCpu = options.threads !== undefined,
    request = { threads, memory: memory ?? freeMemory(platform, group), say, ranks, onCpu },
    opened = await platform.open(device, request);
  await opened.compile([NORMALS]).catch(async (error: unknown) => {
    await opened.close();
    throw error;
  });
  const executor = new ProgramExecutor(opened, group && group.runs),
    { info } = opened,
    memo = newMemo(!trains);
  // Memory that the executor holds already counts as free: the next plan can use it.
  const free = (): number =>
    memory ??
    (info.limit?.own ? info.limit.bytes : freeMemory(platform, group) + executor.stateBytes() + executor.arenaBytes());
  const budget = (): { bytes: number; given: boolean } => ({
    bytes: Math.min(free(), info.limit?.bytes ?? Infinity),
    given: memory !== undefined,
  });
  const admit = (program: Runnable, caches?: Caches): void => {
    const { arena, io } = program.bytes,
      fresh = executor.freshCaches(program as LoadedProgram, caches);
    if (
      (fresh === 0 && arena <= executor.arenaBytes()) ||
      executor.stateBytes() + fresh + Math.max(arena, executor.arenaBytes()) + io <= budget().bytes
    )
      return;
    const needs = fresh > 0 ? `caches need ${showBytes(fresh)}` : `a program needs ${showBytes(arena)}`;
    throw new MemoryError(
      `${needs} beside ${showBytes(executor.stateBytes())} of states, ${showBytes(budget().bytes)} are available`,
      fresh > 0 ? 'fewer sequences at once, or a shorter context' : 'a smaller batch',
    );
  };
  return {
    executor,
    files,
    group,
    admit,
    budget,
    room: () => ({ bytes: budget().bytes, why: whyLess(free(), info) }),
    plan: (graph) => planned(compileGraph(graph, opened.target, memo)),
    replan(before, edits) {
      // Over ranks, the room for a rank's rows follows from capacities before the graph is lowered (passes/ranks).
      if (ranksOf(opened.target)) return null;
      try {
        return planned(recompileGraph(before, edits, opened.target, memo));
      } catch (error) {
        if (error instanceof ShapeError) return null;
        throw error;
      }
    },
  };

  function planned(compiled: Compiled): Planned {
    const { arena, io, constants } = compiled.program.slabs,
      bytes = arena + io + constants;
    return {
      compiled,
      bytes,
      needs: needsOf(bytes, statesOf(compiled.program), executor),
      begin() {
        // `compile` is called one microtask later: a caller that reserves memory at once starts the device's threads
        // on initial values first, and these run while this thread emits kernels.
        const ready = Promise.resolve().then(() => opened.compile(compiled.kernels));
        let checked = false;
        ready.catch(() => undefined); // the caller that awaits `ready` gets the error
        return {
          compiled,
          ready,
          bytes,
          load: () => executor.load(compiled.program),
          reserve(create, runsNext) {
            if (!checked) checkMemory(compiled, executor, free(), info, runsNext);
            executor.reserve(compiled.program);
            const fresh = create(compiled.graph);
            checked = true;
            return fresh;
          },
        };
      },
    };
  }
}

/** Bytes of a program's states by name, except caches: `admit` checks those when the program runs. */
const statesOf = (program: Program): ReadonlyMap<string, number> =>
  new Map(program.states.filter((s) => !isCache(s.name)).map((s) => [s.name, program.tensors[s.tensor].bytes]));

/** Bytes of the states that do not exist yet. */
function freshBytes(states: ReadonlyMap<string, number>, executor: Executor): number {
  const known = new Set(executor.stateNames());
  return [...states].reduce((n, [name, bytes]) => n + (known.has(name) ? 0 : bytes), 0);
}

/** A separate function, so that the closure keeps only these numbers of a plan alive. */
function needsOf(bytes: number, states: ReadonlyMap<string, number>, executor: Executor): () => number {
  return () => bytes + executor.stateBytes(false) + freshBytes(states, executor);
}

/** " (why)" where the device can address less than the free memory, or has its own; or ''. */
const whyLess = (free: number, { limit }: Pick<DeviceInfo, 'limit'>): string =>
  limit && (limit.bytes < free || (limit.own && limit.bytes === free)) ? ` (${limit.why})` : '';

/** There is too little memory for a plan, a program, caches or a model. */
export class MemoryError extends UserError {
  readonly #what: string;
  constructor(what: string, hint: string) {
    super(what, hint);
    this.#what = what;
  }

  /** The same error with one more hint. */
  with(advice: string): MemoryError {
    return new MemoryError(this.#what, `${this.hint ?? ''};\n  ${advice}`);
  }
}

/**
 * Throws MemoryError, before anything is allocated, if a program does not fit. Frees arena memory where that makes it
 * fit.
 */
function checkMemory(
  { program }: Compiled,
  executor: Executor,
  free: number,
  { limit }: DeviceInfo,
  runsNext: boolean,
): void {
  const { arena, io, constants } = program.slabs,
    fresh = freshBytes(statesOf(program), executor),
    beside = Math.max(0, executor.arenaBytes() - arena);
  const need = fresh + arena + io + constants + executor.stateBytes();
  const budget = Math.min(free, limit?.bytes ?? Infinity),
    why = whyLess(free, { limit });
  // New states are created while the arena of the old plan is still held.
  if (need + (fresh > 0 ? beside : 0) <= budget) return;
  if (need <= budget && runsNext) {
    executor.trim(arena);
    return;
  }
  const largest = [...program.tensors]
    .filter((t, i, all) => all.findIndex((o) => o.name === t.name) === i)
    .sort((a, b) => b.bytes - a.bytes)
    .slice(0, 5)
    .map((t) => `  ${showBytes(t.bytes)}  ${t.name.startsWith('%') ? 'intermediate' : t.name} ${showType(t.type)}`);
  if (need <= budget)
    throw new MemoryError(
      `the plan needs ${showBytes(fresh)} of new states beside ${showBytes(executor.arenaBytes())} of the old ` +
        `plan, ${showBytes(budget)} are available${why}`,
      'it fits once the memory of the old plan is freed',
    );
  throw new MemoryError(
    [
      `the model needs ${showBytes(need)} of memory (${need} bytes), ${showBytes(budget)} are available${why}:`,
      `  parameters and optimiser ${showBytes(fresh + executor.stateBytes())}, arena ${showBytes(arena)}, inputs ` +
        `and outputs ${showBytes(io)}`,
      'largest tensors:',
      ...largest,
    ].join('\n'),
    `a smaller batch, fewer or narrower experts, ${why ? 'the native device, ' : ''}or sgd instead of adam`,
  );
}
