// dynamoe bench sorting: times what sorts choices by expert and moves rows into capacities, for several numbers of
// threads, alternating in one process. Each token chooses different experts, some experts much more often than others.
import { availableParallelism } from 'node:os';
import { UserError } from '../base/errors.ts';
import { Stream } from '../base/random.ts';
import { table } from '../base/format.ts';
import type { TensorType } from '../base/shape.ts';
import { admit } from '../graph/ops/moe/admit.ts';
import { admitAll } from '../graph/ops/moe/admitAll.ts';
import { permute, type Permutation } from '../graph/ops/moe/permute.ts';
import { permuteUnless } from '../graph/ops/moe/permuteUnless.ts';
import { scatterAdd } from '../graph/ops/shape/scatterAdd.ts';
import { scatterAddParts } from '../graph/ops/shape/scatterAddParts.ts';
import { PARTS } from '../base/parts.ts';
import { full, type Tensor } from '../graph/tensor.ts';
import { compileGraph, loadProgram, traceGraph } from '../pipeline.ts';
import { ProgramExecutor, type LoadedProgram } from '../run/program.ts';
import { node } from '../session/node.ts';
import { median } from '../observe/quantile.ts';
import type { GemmFlags } from './gemm.ts';

export interface SortingFlags extends Omit<GemmFlags, 'size'> {
  readonly tokens: number;
  readonly topK: number;
  readonly experts: number;
}

export interface SortingResult {
  readonly event: 'sorting';
  readonly what: string;
  readonly device: string;
  readonly threads: number;
  readonly us_best: number;
  readonly us: number;
}

/** Rows and width of a table whose gradient is summed, by indices of which some are frequent. */
const ROWS = 32_000,
  WIDTH = 64;
/** Runs of a turn, after some that wake the threads. */
const RUNS = 10,
  WARM_UP = 4;
const MARGIN = 1.25; // capacity of an expert, as a multiple of the mean load

type Values = Readonly<Record<'choices' | 'chosen' | 'capacity' | 'known' | 'index' | 'rows', Tensor>>;

/** A program that only copies a number: what every program takes to start. */
const START = 'start';
/** What is measured: each is a program of its own, with what must come before it. */
const PROGRAMS: Readonly<Record<string, (v: Values, f: SortingFlags) => readonly Tensor[]>> = {
  [START]: ({ known }) => [known],
  permute: ({ choices }, { experts }) => all(permute(choices, experts)),
  'permute, permuteUnless': ({ choices, known }, { experts }) =>
    all(permuteUnless(choices, permute(choices, experts), known, experts)),
  'permute, admit': ({ choices, capacity }, f) =>
    all(admit(permute(choices, f.experts), capacity, null, { rows: f.tokens * f.topK, padded: false, spill: false })),
  'permute, admit padded': ({ choices, capacity }, { experts, tokens, topK }) => {
    const rows = experts * Math.ceil((MARGIN * tokens * topK) / experts);
    return all(admit(permute(choices, experts), capacity, null, { rows, padded: true, spill: false }));
  },
  'permute, admitAll': ({ choices, capacity }, { experts, tokens, topK }) => {
    const rows = tokens * topK,
      a = admitAll(permute(choices, experts), capacity, { rows, beyond: rows, padded: false });
    return [a.offsets, a.order, a.inverse, a.inside.expert, a.outside.expert];
  },
  scatterAdd: ({ choices, chosen }, { experts }) => [scatterAdd(choices, chosen, full(chosen, [experts, WIDTH], 0))],
  'scatterAdd in parts': ({ index, rows }) => [
    scatterAddParts(index, rows, full(rows, [ROWS, WIDTH], 0), { parts: PARTS, sample: 1 }),
  ],
};

const all = ({ offsets, order, inverse, expert }: Permutation): Tensor[] => [offsets, order, inverse, expert];

export async function benchSorting(flags: SortingFlags): Promise<void> {
  if (flags.topK > flags.experts)
    throw new UserError(
      `--top-k ${flags.topK} of --experts ${flags.experts}`,
      'let a token choose at most all experts',
    );
  const { device: name, threads, rounds, json } = flags,
    say = (line: string): void => {
      process.stderr.write(`dynamoe: ${line}\n`);
    };
  const results: SortingResult[] = [];
  const opened: { threads: number; executor: ProgramExecutor; works: Map<string, LoadedProgram> }[] = [];
  try {
    for (const n of threads ?? [...new Set([1, availableParallelism()])]) {
      const executor = new ProgramExecutor(await node.open(name, { threads: n, memory: node.freeMemory(), say }));
      opened.push({ threads: n, executor, works: await programs(executor, flags) });
    }
    for (const what of Object.keys(PROGRAMS)) {
      const us = opened.map((): number[] => []);
      for (let round = 0; round < rounds; round++)
        for (const [i, { works }] of opened.entries())
          for (let run = -WARM_UP; run < RUNS; run++) {
            const start = performance.now();
            await works.get(what)?.bound.run();
            if (run >= 0) us[i].push((performance.now() - start) * 1000);
          }
      opened.forEach(({ threads, executor }, i) => {
        const { name } = executor.device.info;
        results.push({
          event: 'sorting',
          what,
          device: name,
          threads,
          us_best: Math.min(...us[i]),
          us: median(us[i]),
        });
      });
    }
  } finally {
    for (const { executor } of opened) await executor.close();
  }
  process.stdout.write(json ? results.map((r) => `${JSON.stringify(r)}\n`).join('') : `${describe(flags, results)}\n`);
}

function describe({ tokens, topK, experts, rounds }: SortingFlags, results: readonly SortingResult[]): string {
  const best = (what: string, threads: number): number =>
    results.find((r) => r.what === what && r.threads === threads)?.us_best ?? NaN;
  /** Without the start of the program. */
  const own = (what: string, threads: number): number => best(what, threads) - best(START, threads);
  return (
    `${tokens} tokens, top-${topK} of ${experts} experts; microseconds, of ${rounds * RUNS} runs; ` +
    'times as fast: the best, each less its start\n' +
    table(
      ['what', 'device', 'threads', 'best', 'median', 'times as fast'],
      results.map((r) => [
        r.what,
        r.device,
        String(r.threads),
        r.us_best.toFixed(1),
        r.us.toFixed(1),
        r.what === START ? '' : (own(r.what, results[0].threads) / own(r.what, r.threads)).toFixed(2),
      ]),
    )
  );
}

async function programs(executor: ProgramExecutor, flags: SortingFlags): Promise<Map<string, LoadedProgram>> {
  const { tokens, topK, experts } = flags,
    random = new Stream(0, 'bench.sorting'),
    made = new Map<string, LoadedProgram>();
  const data: Record<keyof Values, { type: TensorType; data: Int32Array | Float32Array }> = {
    choices: { type: { dtype: 'int32', shape: [tokens, topK] }, data: skewed(random, flags) },
    chosen: {
      type: { dtype: 'float32', shape: [tokens, topK, WIDTH] },
      data: random.normals(4, 1, new Float32Array(tokens * topK * WIDTH), 0),
    },
    capacity: {
      type: { dtype: 'int32', shape: [experts] },
      data: new Int32Array(experts).fill(Math.ceil((MARGIN * tokens * topK) / experts)),
    },
    known: { type: { dtype: 'int32', shape: [1] }, data: new Int32Array(1) },
    index: {
      type: { dtype: 'int32', shape: [tokens] },
      data: Int32Array.from({ length: tokens }, (_, i) => Math.floor(ROWS ** random.uniform(1, i))),
    },
    rows: {
      type: { dtype: 'float32', shape: [tokens, WIDTH] },
      data: random.normals(2, 1, new Float32Array(tokens * WIDTH), 0),
    },
  };
  for (const [name, { type, data: values }] of Object.entries(data)) executor.setState(name, type, values);
  for (const [what, build] of Object.entries(PROGRAMS)) {
    const graph = traceGraph({ parameters: new Map(), paths: new Map() }, false, (t) => {
      const values = Object.fromEntries(Object.entries(data).map(([n, { type }]) => [n, t.state(n, type)]));
      build(values as Values, flags).forEach((v, i) => {
        t.output(`${i}`, v);
      });
    });
    made.set(what, await loadProgram(executor, compileGraph(graph, executor.device.target)));
  }
  return made;
}

/** Different experts for each token; the expert of rank r is about 1 / (r + 3) as often chosen as the first. */
function skewed(random: Stream, { tokens, topK, experts }: SortingFlags): Int32Array {
  const order = random.permutation(3, experts),
    most = Math.log((experts + 3) / 3),
    out = new Int32Array(tokens * topK);
  let drawn = 0;
  for (let t = 0; t < tokens; t++) {
    const chosen = new Set<number>();
    while (chosen.size < topK)
      chosen.add(order[Math.min(experts - 1, Math.floor(3 * (Math.exp(most * random.uniform(0, drawn++)) - 1)))]);
    out.set([...chosen], t * topK);
  }
  return out;
}
