// Numbers as text for people.

/** 123, 12.3k, 4.56M. */
export function count(n: number): string {
  if (!Number.isFinite(n)) return '-';
  const units = ['', 'k', 'M', 'G', 'T'];
  let value = n,
    unit = 0;
  while (Math.abs(value) >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return unit === 0 ? String(Math.round(value)) : value.toPrecision(3) + units[unit];
}

/** 512 B, 3.4 MB. */
export function bytes(n: number): string {
  const text = count(n);
  return /[a-zA-Z]$/.test(text) ? `${text.slice(0, -1)} ${text.slice(-1)}B` : `${text} B`;
}

/** 8 s, 1 m 05 s, 2 h 03 m. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '-';
  const s = Math.max(0, Math.round(seconds)),
    two = (n: number): string => String(n).padStart(2, '0');
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} m ${two(s % 60)} s`;
  return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} m`;
}

export const fixed = (x: number | null, digits = 3): string =>
  x === null || !Number.isFinite(x) ? 'not finite' : x.toFixed(digits);

/** Nats to bits. */
export const bits = (nats: number): number => nats / Math.LN2;

const BARS = '▁▂▃▄▅▆▇█';

/**
 * One character for each value. The highest bar stands for the largest value, or for twice the mean if that is more.
 */
export function sparkline(values: readonly number[]): string {
  const mean = values.reduce((a, b) => a + b, 0) / Math.max(1, values.length),
    top = Math.max(2 * mean, ...values);
  return values.map((v) => BARS[top > 0 ? Math.min(7, Math.floor((v / top) * 8)) : 0]).join('');
}

/** A bar of `width` characters, filled to `share`. */
export function bar(share: number, width: number): string {
  const full = Math.round(Math.min(1, Math.max(0, share)) * width);
  return '█'.repeat(full) + '░'.repeat(width - full);
}

/** Rows as aligned columns; numbers are aligned to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [head, ...rows],
    widths = head.map((_, i) => Math.max(...all.map((row) => row[i].length)));
  const right = head.map((_, i) => rows.every((row) => /^[-\d.,% ]*[kMGT]?$/.test(row[i])));
  return all
    .map((row) =>
      row
        .map((cell, i) => (right[i] ? cell.padStart(widths[i]) : cell.padEnd(widths[i])))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
