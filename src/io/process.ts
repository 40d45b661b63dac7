// Which process is which: for locks and temporary files that outlive their process. In: a pid; out: whether it still runs.
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';
import { hash32 } from '../base/hash.ts';
import { codeOf } from './fault.ts';

/** Whether process `pid` runs here; with `start`, whether it is still the one that began then. A zombie does not run. */
export function isRunning(pid: number, start?: string): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (codeOf(error) !== 'EPERM') return false;
  }
  const seen = procStat(pid);
  if (seen === undefined) return true; // no /proc: the pid is all there is
  return seen.state !== 'Z' && seen.state !== 'X' && (start === undefined || start === seen.start);
}

/** When this process began, in clock ticks since boot; '0' where the system does not say. */
export const startOf = (pid: number): string => procStat(pid)?.start ?? '0';

/** Where pids mean the same thing: this host and, on Linux, this container (pid namespace). 8 hex digits. */
export function pidSpace(): string {
  let space = '';
  try { space = readlinkSync('/proc/self/ns/pid'); } catch { /* not Linux */ }
  return hash32(`${hostname()} ${space}`).toString(16).padStart(8, '0');
}

function procStat(pid: number): { state: string; start: string } | undefined {
  let text: string;
  try { text = readFileSync(`/proc/${pid}/stat`, 'latin1'); } catch { return undefined; }
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' '); // the name before it may hold spaces and brackets
  return { state: fields[0], start: fields[19] };
}
