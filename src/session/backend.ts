// Where a session runs: a device with compiled programs, or the float64 reference over the graph.
import { ShapeError, UserError } from '../base/errors.ts';
import { showType } from '../base/shape.ts';
import type { Graph } from '../graph/graph.ts';
import type { Edits } from '../graph/retype.ts';
import type { DeviceInfo } from '../device/device.ts';
import type { KernelMemo } from '../lower/lower.ts';
import { compileGraph, recompileGraph, type Compiled } from '../pipeline.ts';
import { showBytes } from '../plan/print.ts';
import type { Executor, Runnable } from '../run/executor.ts';
import { ProgramExecutor } from '../run/program.ts';
import { ReferenceExecutor } from '../run/reference.ts';
import { DEVICES, type DeviceName, type Files, type Platform } from './platform.ts';

export interface Backend {
  readonly executor: Executor;
  /** Begins to compile a graph, which takes no memory of the device: steps may go on beside. */
  compile(graph: Graph): Compiling;
  /** The same for a graph that differs from a compiled one by sizes alone; null where it must be compiled as a whole. */
  recompile(before: Compiled, edits: Edits): Compiling | null;
  /** For checkpoints; null where there are none. */
  readonly files: Files | null;
}

/** A graph on its way. */
export interface Compiling {
  /** The kernels are there. */
  readonly ready: Promise<void>;
  /** Planned bytes beside the states. */
  readonly bytes: number;
  /** null on the reference. */
  readonly compiled: Compiled | null;
  /** Takes memory for what is not there yet; throws UserError if there is too little. `states` creates those that the graph needs. */
  reserve(states: (graph: Graph) => void): void;
  /** Between steps, when it is ready and its memory is taken. */
  load(): Runnable;
}

export interface BackendOptions {
  readonly device: DeviceName;
  readonly threads?: number | undefined;
  /** Bytes that states and programs may take together; default: what the machine has free. */
  readonly memory?: number | undefined;
  /** Told in one line where the device is not the best there could be; default console.warn. */
  readonly say?: ((line: string) => void) | undefined;
}

export async function openBackend(platform: Platform, options: BackendOptions): Promise<Backend> {
  const { device, threads = platform.threads(), memory, say = console.warn } = options, { files } = platform;
  if (!DEVICES.includes(device)) throw new UserError(`no device named ${String(device)}`, `one of ${DEVICES.join(', ')}`);
  if (!Number.isInteger(threads) || threads < 1 || threads > 256) throw new UserError(`threads must be a whole number from 1 to 256, got ${threads}`);
  if (device === 'reference') {
    const executor = new ReferenceExecutor();
    return { executor, files, recompile: () => null, compile: (graph) => ({ ready: Promise.resolve(), bytes: 0, compiled: null, reserve: (states) => { states(graph); }, load: () => executor.load(graph) }) };
  }
  const opened = await platform.open(device, { threads, memory: memory ?? platform.freeMemory(), say });
  const executor = new ProgramExecutor(opened), { info } = opened, memo: KernelMemo = new Map();
  return { executor, files, compile: (graph) => make(compileGraph(graph, memo)), recompile(before, edits) {
    try {
      return make(recompileGraph(before, edits, memo));
    } catch (error) {
      if (error instanceof ShapeError) return null;
      throw error;
    }
  } };

  function make(compiled: Compiled): Compiling {
    const { arena, io, constants } = compiled.program.slabs, ready = opened.compile(compiled.kernels);
    ready.catch(() => undefined);
    return { compiled, ready, bytes: arena + io + constants, load: () => executor.load(compiled.program), reserve(states) {
      checkMemory(compiled, executor, memory ?? platform.freeMemory() + executor.stateBytes(), info);
      executor.reserve(compiled.program);
      states(compiled.graph);
    } };
  }
}

/** Throws before the first step, and before anything is allocated, if a program cannot fit. */
function checkMemory({ program }: Compiled, executor: Executor, free: number, { limit }: DeviceInfo): void {
  const { arena, io, constants } = program.slabs;
  const known = new Set(executor.stateNames());
  const states = new Map(program.states.map((s) => [s.name, program.tensors[s.tensor]]));
  const fresh = [...states.values()].filter((t) => !known.has(t.name)).reduce((n, t) => n + t.bytes, 0);
  const need = fresh + arena + io + constants + executor.stateBytes();
  const budget = Math.min(free, limit?.bytes ?? Infinity), why = limit && limit.bytes < free ? ` (${limit.why})` : '';
  if (need <= budget) return;
  const largest = [...program.tensors].filter((t, i, all) => all.findIndex((o) => o.name === t.name) === i)
    .sort((a, b) => b.bytes - a.bytes).slice(0, 5).map((t) => `  ${showBytes(t.bytes)}  ${t.name.startsWith('%') ? 'intermediate' : t.name} ${showType(t.type)}`);
  throw new UserError([
    `the model needs ${showBytes(need)} of memory (${need} bytes), ${showBytes(budget)} are available${why}:`,
    `  parameters and optimiser ${showBytes(fresh + executor.stateBytes())}, arena ${showBytes(arena)}, inputs and outputs ${showBytes(io)}`,
    'largest tensors:', ...largest].join('\n'), `a smaller batch, fewer or narrower experts, ${why ? 'the native device, ' : ''}or sgd instead of adam`);
}
