// Where a session runs: a device with compiled programs, or the float64 reference over the graph.
import { ShapeError, UserError } from '../base/errors.ts';
import { showType } from '../base/shape.ts';
import type { Graph } from '../graph/graph.ts';
import type { Edits } from '../graph/retype.ts';
import type { DeviceInfo } from '../device/device.ts';
import type { KernelMemo } from '../lower/lower.ts';
import { compileGraph, recompileGraph, type Compiled } from '../pipeline.ts';
import { showBytes } from '../plan/print.ts';
import type { Program } from '../plan/program.ts';
import { isCache, type Caches, type Executor, type Runnable } from '../run/executor.ts';
import { ProgramExecutor, type LoadedProgram } from '../run/program.ts';
import { ReferenceExecutor } from '../run/reference.ts';
import { DEVICES, type DeviceName, type Files, type Platform } from './platform.ts';
import type { Fresh } from './states.ts';

export interface Backend {
  readonly executor: Executor;
  /** Plans a graph; nothing is compiled, no memory is taken. */
  plan(graph: Graph): Planned;
  /** The same for a graph that differs from a compiled one by sizes alone; null where it must be planned as a whole. */
  replan(before: Compiled, edits: Edits): Planned | null;
  /**
   * Throws MemoryError if a program that was loaded before has no room any more, or the caches that it would create
   * have none.
   */
  admit(program: Runnable, caches?: Caches): void;
  /**
   * Memory limit for weights, optimizer and activations in bytes. given: the caller said so; else it is what is free
   * now.
   */
  budget(): { readonly bytes: number; readonly given: boolean };
  /** Bytes that states may take, with those that are there; why no more, in brackets, or ''. */
  room(): { readonly bytes: number; readonly why: string };
  /** For checkpoints; null where there are none. */
  readonly files: Files | null;
}

/** A graph with its memory planned. */
export interface Planned {
  /** Bytes beside the states. */
  readonly bytes: number;
  /** null on the reference. */
  readonly compiled: Compiled | null;
  /**
   * Bytes that the session would hold with it: its own, and all states but caches, those that it would create among
   * them.
   */
  needs(): number;
  /** Begins to compile it, which takes no memory of the device: steps may go on beside. */
  begin(): Compiling;
}

/** A graph on its way. */
export interface Compiling {
  /** The kernels are there. */
  readonly ready: Promise<void>;
  /** Planned bytes beside the states. */
  readonly bytes: number;
  /** null on the reference. */
  readonly compiled: Compiled | null;
  /**
   * Takes memory for what is not there yet; throws UserError, with nothing created, if there is too little. `create`
   * makes the states that the graph lacks, and says which of them need values. alone: the program runs next, and what
   * others need for their intermediate values may go.
   */
  reserve(create: (graph: Graph) => Fresh, alone: boolean): Fresh;
  /** Between steps, when it is ready and its memory is taken. */
  load(): Runnable;
}

export interface BackendOptions {
  readonly device: DeviceName;
  readonly threads?: number | undefined;
  /** Memory limit for weights, optimizer and activations in bytes; default: what the machine has free. */
  readonly memory?: number | undefined;
  /** Told in one line where the device is not the best there could be; default console.warn. */
  readonly say?: ((line: string) => void) | undefined;
}

export async function openBackend(platform: Platform, options: BackendOptions): Promise<Backend> {
  const { device, threads = platform.threads(), memory, say = console.warn } = options,
    { files } = platform;
  if (!DEVICES.includes(device))
    throw new UserError(`no device named ${String(device)}`, `one of ${DEVICES.join(', ')}`);
  if (!Number.isInteger(threads) || threads < 1 || threads > 256)
    throw new UserError(`threads must be a whole number from 1 to 256, got ${threads}`);
  if (device === 'reference') {
    const executor = new ReferenceExecutor();
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
      admit: () => undefined,
      replan: () => null,
      budget: () => ({ bytes: Infinity, given: true }),
      room: () => ({ bytes: memory ?? platform.freeMemory() + executor.stateBytes(), why: '' }),
      plan: (graph) => ({ bytes: 0, compiled: null, needs: () => 0, begin: () => begin(graph) }),
    };
  }
  const opened = await platform.open(device, { threads, memory: memory ?? platform.freeMemory(), say });
  const executor = new ProgramExecutor(opened),
    { info } = opened,
    memo: KernelMemo = new Map();
  // What is held may be used for the next plan, too.
  const free = (): number => memory ?? platform.freeMemory() + executor.stateBytes() + executor.arenaBytes();
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
    admit,
    budget,
    room: () => ({ bytes: budget().bytes, why: whyLess(free(), info) }),
    plan: (graph) => planned(compileGraph(graph, memo)),
    replan(before, edits) {
      try {
        return planned(recompileGraph(before, edits, memo));
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
        // Whoever reserves memory at once has the device's threads make starting values while kernels are emitted here.
        const ready = Promise.resolve().then(() => opened.compile(compiled.kernels));
        let checked = false;
        ready.catch(() => undefined); // whoever waits for it is told
        return {
          compiled,
          ready,
          bytes,
          load: () => executor.load(compiled.program),
          reserve(create, alone) {
            if (!checked) checkMemory(compiled, executor, free(), info, alone);
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

/** Bytes of a program's states by name, but for caches, which are admitted when it runs. */
const statesOf = (program: Program): ReadonlyMap<string, number> =>
  new Map(program.states.filter((s) => !isCache(s.name)).map((s) => [s.name, program.tensors[s.tensor].bytes]));

/** Bytes of the states that are not there yet. */
function freshBytes(states: ReadonlyMap<string, number>, executor: Executor): number {
  const known = new Set(executor.stateNames());
  return [...states].reduce((n, [name, bytes]) => n + (known.has(name) ? 0 : bytes), 0);
}

/** Keeps no more of a plan than that. */
function needsOf(bytes: number, states: ReadonlyMap<string, number>, executor: Executor): () => number {
  return () => bytes + executor.stateBytes(false) + freshBytes(states, executor);
}

/** " (why)" where a device reaches less than what is free. */
const whyLess = (free: number, { limit }: Pick<DeviceInfo, 'limit'>): string =>
  limit && limit.bytes < free ? ` (${limit.why})` : '';

/** A plan that has no room. */
export class MemoryError extends UserError {
  readonly #what: string;
  constructor(what: string, hint: string) {
    super(what, hint);
    this.#what = what;
  }

  /** The same with one more hint. */
  with(advice: string): MemoryError {
    return new MemoryError(this.#what, `${this.hint ?? ''};\n  ${advice}`);
  }
}

/** Throws before the first step, and before anything is allocated, if a program cannot fit. */
function checkMemory(
  { program }: Compiled,
  executor: Executor,
  free: number,
  { limit }: DeviceInfo,
  alone: boolean,
): void {
  const { arena, io, constants } = program.slabs,
    fresh = freshBytes(statesOf(program), executor),
    beside = Math.max(0, executor.arenaBytes() - arena);
  const need = fresh + arena + io + constants + executor.stateBytes();
  const budget = Math.min(free, limit?.bytes ?? Infinity),
    why = whyLess(free, { limit });
  // New states are there beside what is held for other plans.
  if (need + (fresh > 0 ? beside : 0) <= budget) return;
  if (need <= budget && alone) {
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
      'it fits alone',
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
