// Memory of this process as the system counts it: resident bytes now and at most. Linux says both and can start the
// second anew; elsewhere the peak is that of the whole process.
import { readFileSync, writeFileSync } from 'node:fs';

export interface Resident {
  readonly now: number;
  readonly peak: number;
}

/** Bytes from the text of /proc/PID/status; null where the two lines are not there. */
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
    // No such file: not Linux.
  }
  return { now: process.memoryUsage.rss(), peak: process.resourceUsage().maxRSS * 1024 };
}

/** From here on the peak is that of what follows. Gives the bytes that are resident now. */
export function startPeak(): number {
  try {
    writeFileSync('/proc/self/clear_refs', '5');
  } catch {
    // The peak stays that of the whole process.
  }
  return resident().now;
}
