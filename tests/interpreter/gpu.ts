// Kernels that are scheduled for a GPU, as JavaScript text: a generator for each thread, which gives the number of a
// barrier where it waits. Threads of a block run one after the other up to the next barrier.
import type { GpuKernel, GpuStmt } from '../../src/schedule/gpu-kernel.ts';
import { ExprText } from './expressions.ts';
import { accesses, arrayOf, type Tracked, type Tracker } from './memory.ts';
import { bodyText, parametersText, type Names } from './statements.ts';

type Views = readonly unknown[];
/** t: shared arrays, T: what the tracker knows of them; both by number of the local. */
export type Thread = (
  b: Views,
  B: readonly Tracked[],
  n: readonly number[],
  t: Views,
  T: Views,
  block: number,
  thread: number,
) => Generator<number, void> | undefined;

/** The body of a function of k, m and f (expressions.ts) that gives a Thread. */
export function gpuText(kernel: GpuKernel): string {
  let barriers = 0;
  const stmts = (body: readonly GpuStmt[], names?: Names): string[] => bodyText<GpuStmt>(kernel, body, other, names);
  const other = (s: GpuStmt, names: Names): string[] => {
    if (s.s === 'barrier') return [`yield ${barriers++};`];
    if (s.s !== 'for') throw new Error(`a statement ${s.s}`);
    const w = new ExprText(kernel, names),
      { name } = s.index,
      [from, below] = [w.value(s.from), w.value(s.below)];
    return [
      '{',
      ...w.lines,
      `const end = ${below};`,
      `for (let ${name} = ${from}; ${name} < end; ${name} += ${s.step}) {`,
      ...stmts(s.body, names),
      '}',
      '}',
    ];
  };
  const locals = kernel.locals.map((l, i) =>
    l.shared
      ? `const t${i} = t[${i}], T${i} = T[${i}];`
      : l.length > 0
        ? `const t${i} = m.arrayOf('${l.dtype}', ${l.length});`
        : `let t${i};`,
  );
  const lines = [...parametersText(kernel), ...locals, ...stmts(kernel.body)],
    generator = barriers > 0 ? '*' : '';
  return [
    `return function${generator} (b, B, n, t, T, ${kernel.block.name}, ${kernel.thread.name}) {`,
    ...lines,
    '};',
  ].join('\n');
}

/** Runs all blocks, one after the other. Throws if some threads of a block wait where others do not. */
export function launch(
  { blocks, threads, locals }: GpuKernel,
  start: Thread,
  tracker: Tracker,
  b: Views,
  B: readonly Tracked[],
  n: readonly number[],
): void {
  const shared = locals.map((l, i): Tracked | null =>
      l.shared
        ? { name: `t${i}`, count: l.length, first: 0, size: 1, accesses: accesses(l.length), shared: true }
        : null,
    ),
    arrays = locals.map((l) => (l.shared ? arrayOf(l.dtype, l.length) : null));
  for (let block = 0; block < blocks; block++) {
    tracker.beginBlock();
    const started = Array.from({ length: threads }, (_, thread) => {
      tracker.thread = thread;
      return start(b, B, n, arrays, shared, block, thread);
    });
    if (started[0] === undefined) continue; // threads without barriers have run to their ends
    for (let waiting = true; waiting;) {
      const places = started.map((t, thread) => {
        tracker.thread = thread;
        return t?.next().value ?? null;
      });
      const other = places.findIndex((p) => p !== places[0]);
      if (other >= 0)
        throw new Error(
          `divergence: thread 0 of block ${block} ${placeText(places[0])}, thread ${other} ${placeText(places[other])}`,
        );
      waiting = places[0] !== null;
      tracker.barrier();
    }
  }
  tracker.thread = 0;
}

const placeText = (barrier: number | null): string => (barrier === null ? 'has ended' : `waits at barrier ${barrier}`);
