// Formats numbers and decisions for people.
import type { RecompileEvent } from '../../recompile/rule.ts';

/** 123, 12.3k, 4.56M. */
export function count(n: number): string {
  if (!Number.isFinite(n)) return '–';
  const units = ['', 'k', 'M', 'G', 'T'];
  let value = n,
    unit = 0;
  while (Math.abs(value) >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return unit === 0 ? String(Number(value.toFixed(Math.abs(value) < 10 ? 1 : 0))) : value.toPrecision(3) + units[unit];
}

/** 512 B, 3.40 MB. */
export function bytes(n: number): string {
  const text = count(n);
  return /[a-zA-Z]$/.test(text) ? `${text.slice(0, -1)} ${text.slice(-1)}B` : text === '–' ? text : `${text} B`;
}

export const fixed = (x: number | null, digits = 3): string =>
  x === null || !Number.isFinite(x) ? '–' : x.toFixed(digits);

/** 8 s, 1 m 05 s, 2 h 03 m. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '–';
  const s = Math.max(0, Math.round(seconds)),
    two = (n: number): string => String(n).padStart(2, '0');
  if (s < 60) return `${s} s`;
  return s < 3600
    ? `${Math.floor(s / 60)} m ${two(s % 60)} s`
    : `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} m`;
}

export const milliseconds = (ms: number | null): string =>
  ms === null ? 'not measured' : `${ms.toFixed(ms < 10 ? 2 : 1)} ms`;

/** The value of a knob; long lists are cut. */
export function knob(value: unknown): string {
  if (!Array.isArray(value)) return String(value);
  const shown = value.slice(0, 16).map((x) => (typeof x === 'number' ? String(Number(x.toFixed(2))) : String(x)));
  return shown.join(' ') + (value.length > shown.length ? ` … (${value.length})` : '');
}

/** "2 → 1"; for the knob `slots`, the operation that was done or taken back. */
export function change({ knob: name, from, to }: RecompileEvent['changes'][number]): string {
  if (name !== 'slots' || !Array.isArray(to) || !Array.isArray(from)) return `${knob(from)} → ${knob(to)}`;
  const at = (list: readonly unknown[]): number => list.findIndex((x) => typeof x === 'number'),
    count = (list: readonly unknown[]): number => (at(list) < 0 ? 0 : Number(list[at(list)]));
  if (count(to) > count(from)) return to.slice(at(to) + 1).join(', ');
  return `taken back: ${from.slice(at(from) + 1).join(', ')}`;
}

/** kept: 21% faster; kept: no measurable difference; undone: 5% slower */
export function outcome({ kept, error, ratio }: Pick<RecompileEvent, 'kept' | 'error' | 'ratio'>): string {
  if (error !== undefined) return `not taken: ${error}`;
  return `${kept ? 'kept' : 'undone'}${ratio ? `: ${speed(ratio)}` : ''}`;
}

/** The change of speed, from the ratio of old to new time: its median and its 90% interval. */
export function speed({ median, low, high }: NonNullable<RecompileEvent['ratio']>): string {
  if (low <= 1 && high >= 1) return 'no measurable difference';
  const percent = 100 * Math.abs(median - 1);
  return `${percent.toFixed(percent < 1 ? 1 : 0)}% ${median > 1 ? 'faster' : 'slower'}`;
}

/** Whether a change of this class alters results. */
export const effect = (kind: RecompileEvent['class']): string =>
  kind === 'N' ? 'results unchanged' : kind === 'R' ? 'results change' : 'nothing changed';

/** The cost of the change. */
export function price({
  compile_ms,
  cached,
  verify_ms,
  stall_ms,
  during,
}: Pick<RecompileEvent, 'compile_ms' | 'cached' | 'verify_ms' | 'stall_ms' | 'during'>): string {
  const compiling = cached ? 'the plan was there already' : `compiling took ${milliseconds(compile_ms)}`;
  return (
    `${compiling}${verify_ms > 0 ? `, verifying ${milliseconds(verify_ms)}` : ''}; ` +
    `${during === 'inference' ? 'work' : 'training'} paused for ${milliseconds(stall_ms)}`
  );
}
