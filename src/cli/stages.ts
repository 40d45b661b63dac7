// The text of each stage of the compiler, for `dynamoe inspect`. It compiles the graph by pipeline.ts, as sessions do.
import { emitFile } from '../emit/c/kernel.ts';
import { emitFile as emitCuda } from '../emit/cuda/kernel.ts';
import { emitModule } from '../emit/wasm/kernel.ts';
import { moduleText } from '../emit/wasm/text.ts';
import type { Graph } from '../graph/graph.ts';
import { ops } from '../graph/ops/index.ts';
import { printGraph } from '../graph/print.ts';
import { printKernel } from '../kernel/print.ts';
import { printGroups, printStorage } from '../lower/print.ts';
import { afterEachPass } from '../passes/optimise.ts';
import { panelsOf } from '../passes/panels.ts';
import { compileGraph, newMemo, optimisedGraph, type Compiled } from '../pipeline.ts';
import { printProgram } from '../plan/print.ts';
import { printScheduled } from '../schedule/print.ts';
import { forCpu } from '../schedule/schedule.ts';
import { GPU } from '../schedule/gpu.ts';
import { NATIVE, WASM, type Target } from '../schedule/target.ts';

/** In the order of the compiler. */
export const STAGES = [
  'traced',
  'passes',
  'graph',
  'storage',
  'groups',
  'kernels',
  'schedule',
  'source',
  'program',
] as const;
export type StageName = (typeof STAGES)[number];

/** Machines for which kernels are scheduled and printed. */
export const MACHINES = ['native', 'wasm', 'cuda'] as const;
export type Machine = (typeof MACHINES)[number];
/** `native`: of a processor with AVX-512; others have narrower panels. `cuda`: of an H100; others run fewer blocks. */
const TARGETS: Readonly<Record<Machine, Target>> = {
  native: { ...NATIVE, limits: { ...NATIVE.limits, panels: panelsOf(32) } },
  wasm: WASM,
  cuda: GPU,
};

/**
 * `graph`: as tracing gives it, with gradients and updates. `device`: the machine that the result is for. `trains`:
 * whether the program is that of a session that trains.
 */
export function printStage(graph: Graph, stage: StageName, device: Machine = 'native', trains = true): string {
  if (stage === 'traced') return printGraph(graph);
  if (stage === 'passes') return printPasses(graph);
  if (stage === 'graph') return printGraph(optimisedGraph(graph, TARGETS[device], newMemo(!trains)));
  const compiled = compileGraph(graph, TARGETS[device], newMemo(!trains));
  switch (stage) {
    case 'storage':
      return printStorage(compiled.lowered);
    case 'groups':
      return printGroups(compiled.lowered);
    case 'kernels':
      return [
        ...new Map(compiled.lowered.calls.flatMap((c) => (c.kind === 'kernel' ? [[c.key, c.kernel] as const] : []))),
      ]
        .map(([key, kernel]) => `${key.slice(0, 8)} ${printKernel(kernel)}`)
        .join('\n\n');
    case 'schedule':
      return compiled.kernels.map((k) => `${k.key.slice(0, 8)} ${printScheduled(k.kernel)}`).join('\n\n');
    case 'source':
      return SOURCES[device](compiled);
    case 'program':
      return printProgram(compiled.program);
  }
}

const SOURCES: Readonly<Record<Machine, (compiled: Compiled) => string>> = {
  native: ({ kernels }) => emitFile(kernels),
  wasm: wasmSource,
  cuda: ({ kernels }) => emitCuda(kernels),
};

/** The graph after each pass that has changed it. */
function printPasses(graph: Graph): string {
  let before = printGraph(graph);
  const parts = afterEachPass(graph, ops).map(({ name, graph: after }) => {
    const text = printGraph(after),
      changed = text !== before;
    before = text;
    return changed ? `# after the pass '${name}'\n${text}` : `# the pass '${name}' changes nothing`;
  });
  return parts.join('\n\n');
}

/** Engines whose relaxed multiply-add rounds once, which is usual; the memory's size is that of an unlimited device. */
function wasmSource({ kernels }: Compiled): string {
  const options = { fused: true, memory: { shared: true, pages: 65536 }, scratch: Infinity };
  const { bytes } = emitModule(
    kernels.map((k) => forCpu(k.kernel)),
    options,
  );
  const names = kernels.map((k, i) => `;; functions whose names end in ${i}: kernel ${k.key.slice(0, 8)}`);
  return [...names, moduleText(bytes)].join('\n');
}
