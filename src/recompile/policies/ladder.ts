// What can be done to make a plan smaller, rung by rung. In: a model, or a draft of one; out: its modules' knobs in the
// order in which they are set: hidden values of experts computed again, then whole blocks, then banks in more and more
// chunks; of one kind the layer that saves most first. None of them changes a result. Above them, where that is
// allowed, the batch in more and more parts, which does.
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
  /** Those of them that change no result. */
  readonly neutral: number;
  /** How many of the others, splits of the batch, are set. */
  readonly parted: number;
  /** How many rungs, from the first on, are set. */
  readonly height: number;
  /** Sets as many rungs as that; what lies above is as the user had it. */
  climb(height: number): void;
  /** Everything as it was found. */
  leave(): void;
}

/** `initial`: the user's own settings, by path; they are no rungs and stay. */
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
    parted = splits.filter((n) => n <= (session?.split ?? 1)).length;
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
    parted,
    height: unset < 0 ? neutral + parted : unset,
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
 * About how many numbers a token has in the module: those that its parameters make. `inner`: of the MoE layers in it.
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

/** Of all parameters in a module, which do not change. */
function columnsOf(module: object): number {
  const found =
    columns.get(module) ??
    [...nameParameters(module).parameters.values()].reduce((n, p) => n + p.shape[p.shape.length - 1], 0);
  columns.set(module, found);
  return found;
}
