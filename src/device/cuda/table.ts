// A table of steps as one CUDA graph: a node for each kernel, and between two waves an empty node that joins the first
// if it has several. The graph is made when the table is bound, and a run of all steps is one call. A change of sizes
// binds another table, so it makes another graph, while the old one can still run: the words of its nodes could be set
// instead (cuGraphExecKernelNodeSetParams), but a plan that is undone needs the old words again, and both plans take
// turns while they are compared.
import type { Bound, StepTimes } from '../device.ts';
import type { Launch, Launcher } from './launch.ts';
import type { CudaStream } from './stream.ts';

export interface TableStep extends Launch {
  readonly key: string;
  readonly barrier: boolean;
}

/** Each kernel runs alone, and errors name it. */
const isStepwise = (): boolean => Boolean(process.env['DYNAMOE_CUDA_STEPWISE']);

export class CudaTable implements Bound {
  readonly #stream: CudaStream;
  readonly #launcher: Launcher;
  readonly #steps: readonly TableStep[];
  /** CUgraphExec */
  readonly #graph: bigint;
  #runs = 0;

  constructor(stream: CudaStream, launcher: Launcher, steps: readonly TableStep[]) {
    this.#stream = stream;
    this.#launcher = launcher;
    this.#steps = steps;
    this.#graph = this.#instantiated();
  }

  #instantiated(): bigint {
    const graph = this.#stream.make('cuGraphCreate', 0);
    try {
      this.#addNodes(graph);
      const made = this.#stream.make('cuGraphInstantiateWithFlags', graph, 0);
      try {
        this.#stream.put('cuGraphUpload', made);
      } catch (error) {
        this.#stream.giveBack('cuGraphExecDestroy', made);
        throw error;
      }
      return made;
    } finally {
      this.#stream.giveBack('cuGraphDestroy', graph);
    }
  }

  #addNodes(graph: bigint): void {
    let before = new BigUint64Array(0),
      wave: bigint[] = [];
    for (const step of this.#steps) {
      if (step.barrier && wave.length > 0) {
        before = BigUint64Array.from(wave);
        if (wave.length > 1) before = BigUint64Array.of(this.#join(graph, before));
        wave = [];
      }
      wave.push(this.#launcher.node(graph, step, before));
    }
  }

  #join(graph: bigint, nodes: BigUint64Array): bigint {
    return this.#stream.make('cuGraphAddEmptyNode', graph, nodes, nodes.length);
  }

  /** Resolves when the steps are in the stream. If a kernel fails, those who read later are told. */
  async run(from = 0, to = this.#steps.length): Promise<void> {
    this.#stream.enter();
    if (from >= to) return;
    if (isStepwise()) {
      await this.#stepwise(from, to);
      return;
    }
    if (from === 0 && to === this.#steps.length) this.#stream.put('cuGraphLaunch', this.#graph);
    else for (const step of this.#steps.slice(from, to)) this.#launcher.launch(step);
    this.#stream.mark(this.#name(from, to), () => undefined);
  }

  async #stepwise(from: number, to: number): Promise<void> {
    for (let i = from; i < to; i++) {
      this.#stream.enter();
      this.#launcher.launch(this.#steps[i]);
      await this.#stream.reached(this.#name(i, i + 1));
    }
  }

  #name(from: number, to: number): string {
    return to - from === 1
      ? `kernel ${this.#steps[from].key} (step ${from} of ${this.#steps.length})`
      : `steps ${from} to ${to} of ${this.#steps.length} (kernels ${this.#steps[from].key} to ` +
          `${this.#steps[to - 1].key})`;
  }

  async profile(): Promise<StepTimes> {
    const stream = this.#stream,
      { length } = this.#steps,
      events: bigint[] = [],
      ms = new Float32Array(1);
    stream.enter();
    if (length === 0) return { ns: new Float64Array(0), tasks: new Float64Array(0) };
    try {
      for (let i = 0; i <= length; i++) events.push(stream.make('cuEventCreate', 0));
      this.#steps.forEach((step, i) => {
        stream.put('cuEventRecord', events[i]);
        this.#launcher.launch(step);
      });
      stream.put('cuEventRecord', events[length]);
      await stream.reached(this.#name(0, length));
      stream.enter();
      const ns = Float64Array.from({ length }, (_, i) => {
        stream.call('cuEventElapsedTime', ms, events[i], events[i + 1]);
        return ms[0] * 1e6;
      });
      return { ns, tasks: Float64Array.from(this.#steps, ({ kernel }) => kernel.blocks) };
    } finally {
      for (const event of events) stream.giveBack('cuEventDestroy_v2', event);
    }
  }

  /** The driver frees a graph that is running when it has run. */
  dispose(): void {
    this.#stream.giveBack('cuGraphExecDestroy', this.#graph);
  }
}
