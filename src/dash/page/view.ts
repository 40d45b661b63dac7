// What the reader has chosen to see on the page.
import type { Run } from './run.ts';

export interface View {
  axis: 'step' | 'elapsed';
  /** The visible range of the axis; null: everything. */
  range: readonly [number, number] | null;
  /** Shows only so many of the last steps; null: all. Ignored if there is a range. */
  last: number | null;
  smoothing: number;
  runs: Run[];
  /** The run whose layers, recompilations and plan are shown. */
  run: Run;
}

/** The start and end of the axis. */
export function extent({ axis, range, last, runs }: View): [number, number] {
  if (range) return [range[0], range[1]];
  const ends = runs.map((r) => r[axis].last).filter(Number.isFinite),
    end = Math.max(...ends, axis === 'step' ? 2 : 1);
  if (last === null) return [axis === 'step' ? 1 : 0, end];
  const starts = runs.filter((r) => r.step.length > 0).map((r) => r[axis].at(Math.max(0, r.step.length - last)));
  return [Math.min(...starts, end - 1), end];
}

/** The position of a step of a run on the axis. */
export const place = ({ axis }: View, run: Run, step: number): number => (axis === 'step' ? step : run.elapsedAt(step));
