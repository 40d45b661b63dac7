// The whole compiler on one page. A model's function becomes a Graph. The Graph gets gradients and updates, is
// optimised, lowered to kernels, scheduled, and planned into a Program with static memory, which a device runs. Each
// stage takes plain data and gives plain data; each result is verified. `dynamoe inspect --stage NAME` prints it
// (cli/stages.ts). Sessions compile with the functions of this file alone.
//
//     trace -> differentiate -> optimise -> lower -> schedule -> emit -> plan -> run
//     fn       Graph            Graph       Kernel[] Scheduled[] source  Program  Session
import { differentiate } from './grad/differentiate.ts';
import type { Graph } from './graph/graph.ts';
import { ops } from './graph/ops/index.ts';
import type { Layout } from './graph/state.ts';
import { retype, type Edits } from './graph/retype.ts';
import { verifyGraph, verifyStages } from './graph/verify.ts';
import { lower, lowerAgain, type KernelMemo } from './lower/lower.ts';
import type { Lowered } from './lower/lowered.ts';
import type { Optimizer } from './optim/optimizer.ts';
import { addUpdates, type UpdateOptions } from './optim/updates.ts';
import { optimise } from './passes/optimise.ts';
import { sumInParts } from './passes/parts.ts';
import { plan } from './plan/plan.ts';
import type { Program } from './plan/program.ts';
import { verifyProgram } from './plan/verify.ts';
import { scheduleProgram, type ScheduleMemo } from './schedule/program.ts';
import { NATIVE, ranksOf, type Target } from './schedule/target.ts';
import type { KernelSource } from './device/device.ts';
import type { ProgramExecutor, LoadedProgram } from './run/program.ts';
import type { Named } from './trace/module.ts';
import { trace, type Trace } from './trace/trace.ts';

/** Runs the model on tensors of the trace: fn -> Graph. `build` names the outputs; training needs one named `total`. */
export function traceGraph(named: Named, training: boolean, build: (t: Trace) => void): Graph {
  return verifyGraph(trace(ops, named, training, build), ops, 'trace');
}

/** Adds gradients of `total` and the optimizer's updates of the trained parameters: Graph -> Graph. */
export function trainingGraph(
  forward: Graph,
  optimizer: Optimizer,
  trained: readonly string[],
  options?: UpdateOptions,
): Graph {
  const used = trained.filter((name) => forward.inputs.some((i) => i.kind === 'state' && i.name === name));
  return verifyStages(forward, ops, [
    { name: 'differentiate', run: (g) => differentiate(g, ops, 'total', used) },
    { name: 'sum in parts', run: (g) => sumInParts(g, ops, forward.nodes.length, options?.parts ?? 1) },
    { name: 'optim', run: (g) => addUpdates(g, ops, optimizer, options) },
  ]);
}

/** The results of each stage of the compiler for one graph. */
export interface Compiled {
  readonly graph: Graph;
  readonly lowered: Lowered;
  readonly kernels: readonly KernelSource[];
  readonly program: Program;
}

/** What earlier graphs gave: kernels, schedules by key, layouts of states by name (null: all lie in rows). */
export interface Memo {
  readonly kernels: KernelMemo;
  readonly scheduled: ScheduleMemo;
  readonly layouts: Map<string, Layout> | null;
}
/** `reads`: no program changes parameters, so that they may lie as products read them. */
export const newMemo = (reads = false): Memo => ({
  kernels: new Map(),
  scheduled: new Map(),
  layouts: reads ? new Map() : null,
});

/** The graph that is lowered: this rank's, after all passes, with the layouts of states that `target` reads. */
export function optimisedGraph(graph: Graph, target: Target, { layouts }: Memo): Graph {
  const best = optimise(ranksOf(target)?.graph(graph, ops) ?? graph, ops);
  return (layouts && target.limits.panels?.place(best, layouts)) ?? best;
}

/** Compiles a graph to a program and its kernels, as `target` runs them. */
export function compileGraph(graph: Graph, target: Target = NATIVE, memo = newMemo()): Compiled {
  const best = optimisedGraph(graph, target, memo);
  return finish(lower(best, ops, target.limits, memo.kernels, ranksOf(target)?.exchanges), target, memo);
}

function finish(lowered: Lowered, target: Target, { scheduled }: Memo): Compiled {
  const planned = plan(lowered, ranksOf(target)?.divide(lowered)),
    { program, kernels } = scheduleProgram(lowered.calls, planned, target, scheduled);
  return { graph: lowered.graph, lowered, kernels, program: verifyProgram(program) };
}

/** Compiles a graph that was compiled before, with other sizes. Throws ShapeError where the sizes do not fit. */
export function recompileGraph(before: Compiled, edits: Edits, target: Target, memo: Memo): Compiled {
  return finish(lowerAgain(before.lowered, retype(before.graph, ops, edits), ops, memo.kernels), target, memo);
}

/** Makes a program ready to run: the device compiles its kernels, and its memory is allocated. */
export async function loadProgram(executor: ProgramExecutor, compiled: Compiled): Promise<LoadedProgram> {
  await executor.device.compile(compiled.kernels);
  return executor.load(compiled.program);
}
