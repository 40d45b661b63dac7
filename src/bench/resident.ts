// Resident memory of this process: current and peak bytes. Linux reports both and can reset the peak; on other systems
// the peak is that of the whole process.
import { readFileSync, writeFileSync } from 'node:fs';

export interface Resident {
  readonly now: number;
  readonly peak: number;
}

/** Bytes from the text of /proc/PID/status; null if the two lines are missing. */
export function parseStatus(text: string): Resident | null {
  const line = (name: string): number =>
    1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? NaN);
  const now = line('VmRSS'),
    peak = line('VmHWM');
  return Number.isFinite(now) && Number.isFinite(peak) ? { now, peak } : null;
}

export function resident(): Resident {
  try {
    const found = parseStatus(readFileSync('/proc/self/status', 'utf8'));
    if (found) return found;
  } catch {
    // not Linux
  }
  return { now: process.memoryUsage.rss(), peak: process.resourceUsage().maxRSS * 1024 };
}

/** Resets the peak. Returns the current resident bytes. */
export function startPeak(): number {
  try {
    writeFileSync('/proc/self/clear_refs', '5');
  } catch {
    // the peak stays that of the whole process
  }
  return resident().now;
}
