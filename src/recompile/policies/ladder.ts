// The list of knob settings that make a plan smaller, in the order in which fitMemory sets them (rungs of a ladder).
// In: a model, or a draft of one. First hidden values of experts are recomputed, then whole blocks, then banks of
// experts are computed in 2, 4 and 8 chunks; within one kind, the layer that saves most comes first. None of these
// changes results. Last, where allowed, the batch is split into 2, 4 and 8 parts, which does change results.
import { ExpertBank } from '../../nn/moe/experts.ts';
import type { MoE } from '../../nn/moe/moe.ts';
import { nameParameters } from '../../trace/module.ts';
import { SESSION, type Settings } from '../../trace/knobs.ts';
import { originalOf } from '../draft.ts';
import { factorsOf, modulesOf } from './modules.ts';

/** Chunks of a bank, from rung to rung. */
const CHUNKS = [2, 4, 8] as const;
/** Parts of a batch. */
const SPLITS = [2, 4, 8] as const;

interface Own {
  recompute: boolean;
  chunks?: number;
}
interface Rung {
  readonly module: Own;
  readonly knob: 'recompute' | 'chunks';
  readonly chunks: number;
}

export interface Ladder {
  readonly rungs: number;
  /** How many of them keep results identical. */
  readonly neutral: number;
  /** How many of the other rungs, which split the batch, are set. */
  readonly splitSteps: number;
  /** How many rungs are set, counted from the first. */
  readonly height: number;
  /** Sets the first `height` rungs; knobs of the other rungs get the user's values. */
  climb(height: number): void;
  /** Sets all knobs back to the values that they had when the ladder was made. */
  leave(): void;
}

/** `initial`: the user's own settings by path, which are never undone and are no rungs. */
export function ladderOf(
  model: object,
  initial: (path: string) => Settings,
  session: { split: number } | null = null,
): Ladder {
  const again = modulesOf(model, 'recompute'),
    paths = [...again.keys()],
    within = (inner: string, outer: string): boolean =>
      inner !== outer && inner.startsWith(outer === '' ? '' : `${outer}.`);
  const chunked = modulesOf(model, 'chunks'),
    outer = paths.filter((path) => paths.some((p) => within(p, path))),
    inner = paths.filter((path) => !outer.includes(path));
  const banks = [...chunked]
    .filter(([, module]) => {
      const { experts, dispatch } = module as MoE;
      return experts instanceof ExpertBank && (dispatch === 'ragged' || dispatch === 'padded');
    })
    .map(([path]) => path);
  const moduleAt = (path: string): Own => again.get(path) as Own,
    widthAt = (path: string): number =>
      widthOf(moduleAt(path), () => [...chunked.keys()].filter((p) => within(p, path)).map(widthAt));
  const byWidth = (list: readonly string[]): string[] =>
    list
      .map((path) => ({ path, width: widthAt(path) }))
      .sort((a, b) => b.width - a.width)
      .map(({ path }) => path);
  const rungs: Rung[] = [...byWidth(inner), ...byWidth(outer)]
    .filter((path) => initial(path)['recompute'] !== true)
    .map((path) => ({ module: moduleAt(path), knob: 'recompute', chunks: 0 }));
  for (const chunks of CHUNKS)
    rungs.push(
      ...byWidth(banks)
        .filter((path) => Number(initial(path)['chunks'] ?? 1) < chunks)
        .map((path): Rung => ({ module: moduleAt(path), knob: 'chunks', chunks })),
    );
  const unset = rungs.findIndex(({ module, knob, chunks }) =>
      knob === 'recompute' ? !module.recompute : (module.chunks ?? 1) < chunks,
    ),
    neutral = rungs.length;
  const whole = Number(initial(SESSION)['split'] ?? 1),
    splits = session ? SPLITS.filter((n) => n > whole) : [],
    splitSteps = splits.filter((n) => n <= (session?.split ?? 1)).length;
  const found = [...new Set(rungs.map((r) => r.module))].map((module) => ({
      module,
      recompute: module.recompute,
      chunks: module.chunks,
    })),
    { split = 1 } = session ?? {};
  const leave = (): void => {
    for (const { module, recompute, chunks } of found) {
      module.recompute = recompute;
      if (chunks !== undefined) module.chunks = chunks;
    }
    if (session) session.split = split;
  };
  return {
    rungs: neutral + splits.length,
    neutral,
    splitSteps,
    height: unset < 0 ? neutral + splitSteps : unset,
    leave,
    climb(height) {
      for (const path of paths) {
        const own = rungs.slice(0, height).filter((r) => r.module === moduleAt(path)),
          { recompute = false, chunks = 1 } = initial(path) as Partial<Own>;
        moduleAt(path).recompute = recompute || own.some((r) => r.knob === 'recompute');
        if (banks.includes(path)) moduleAt(path).chunks = Math.max(chunks, ...own.map((r) => r.chunks));
      }
      if (session) session.split = height > neutral ? splits[height - neutral - 1] : whole;
    },
  };
}

/**
 * Estimates how many intermediate numbers the module computes for a token: the columns of its parameters. `inner`: the
 * estimates for the MoE layers in it.
 */
function widthOf(module: object, inner: () => readonly number[]): number {
  const { experts, topK } = module as MoE,
    own = columnsOf(originalOf(module) ?? module);
  if (!(experts instanceof ExpertBank)) return inner().reduce((n, width) => n + width, own);
  const count = experts.w1.shape[0],
    factors = factorsOf(module as MoE, count),
    rows = factors
      ? factors.reduce((a, b) => a + b, 0) / count
      : (module as MoE).dispatch === 'padded'
        ? count / topK
        : 1;
  return own * topK * rows;
}

const columns = new WeakMap<object, number>();

/** The number of columns of all parameters in a module. */
function columnsOf(module: object): number {
  const found =
    columns.get(module) ??
    [...nameParameters(module).parameters.values()].reduce((n, p) => n + p.shape[p.shape.length - 1], 0);
  columns.set(module, found);
  return found;
}
