// Where a session runs: a device with compiled programs, or the float64 reference over the graph.
import { availableParallelism, freemem } from 'node:os';
import { UserError } from '../base/errors.ts';
import { showType } from '../base/shape.ts';
import type { Graph } from '../graph/graph.ts';
import { NativeDevice } from '../device/native/native.ts';
import { compileGraph, loadProgram, type Compiled } from '../pipeline.ts';
import { showBytes } from '../plan/print.ts';
import type { Executor, Runnable } from '../run/executor.ts';
import { ProgramExecutor } from '../run/program.ts';
import { ReferenceExecutor } from '../run/reference.ts';

export const DEVICES = ['auto', 'native', 'reference'] as const;
export type DeviceName = (typeof DEVICES)[number];

export interface Backend {
  readonly executor: Executor;
  /** Compiles a graph. `ready` is called when its memory is known, before any is taken: it creates the states. */
  prepare(graph: Graph, ready: (graph: Graph) => void): Promise<Runnable>;
}

export interface BackendOptions {
  readonly device: DeviceName;
  readonly threads?: number | undefined;
  /** Bytes that states and programs may take together; default: what the machine has free. */
  readonly memory?: number | undefined;
}

export async function openBackend({ device, threads = availableParallelism(), memory }: BackendOptions): Promise<Backend> {
  if (!DEVICES.includes(device)) throw new UserError(`no device named ${String(device)}`, `one of ${DEVICES.join(', ')}`);
  if (!Number.isInteger(threads) || threads < 1 || threads > 256) throw new UserError(`threads must be a whole number from 1 to 256, got ${threads}`);
  if (device === 'reference') {
    const executor = new ReferenceExecutor();
    return { executor, prepare: (graph, ready) => { ready(graph); return Promise.resolve(executor.load(graph)); } };
  }
  const executor = new ProgramExecutor(await NativeDevice.open(threads));
  return { executor, async prepare(graph, ready) {
    const compiled = compileGraph(graph);
    checkMemory(compiled, executor, memory ?? freemem() + executor.stateBytes());
    ready(graph);
    return loadProgram(executor, compiled);
  } };
}

/** Throws before the first step, and before anything is allocated, if a program cannot fit. */
function checkMemory({ program }: Compiled, executor: Executor, budget: number): void {
  const { arena, io, constants } = program.slabs;
  const known = new Set(executor.stateNames());
  const states = new Map(program.states.map((s) => [s.name, program.tensors[s.tensor]]));
  const fresh = [...states.values()].filter((t) => !known.has(t.name)).reduce((n, t) => n + t.bytes, 0);
  const need = fresh + arena + io + constants + executor.stateBytes();
  if (need <= budget) return;
  const largest = [...program.tensors].filter((t, i, all) => all.findIndex((o) => o.name === t.name) === i)
    .sort((a, b) => b.bytes - a.bytes).slice(0, 5).map((t) => `  ${showBytes(t.bytes)}  ${t.name.startsWith('%') ? 'intermediate' : t.name} ${showType(t.type)}`);
  throw new UserError([
    `the model needs ${showBytes(need)} of memory (${need} bytes), ${showBytes(budget)} are available:`,
    `  parameters and optimiser ${showBytes(fresh + executor.stateBytes())}, arena ${showBytes(arena)}, inputs and outputs ${showBytes(io)}`,
    'largest tensors:', ...largest].join('\n'), 'a smaller batch, fewer or narrower experts, or sgd instead of adam');
}
