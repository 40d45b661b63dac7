// Which process is which: for locks and temporary files that outlive their process. In: a pid; out: whether it still
// runs.
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';
import { hash32 } from '../base/hash.ts';
import { codeOf } from './fault.ts';

/**
 * Whether the process `pid` that began at `start` (startOf) runs here. A zombie does not run. Where the system does not
 * say when processes began ('0'), any of that pid will do.
 */
export function isRunning(pid: number, start: string): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (codeOf(error) !== 'EPERM') return false;
  }
  const seen = procStat(pid);
  if (seen === undefined) return true; // no /proc: the pid is all there is
  return seen.state !== 'Z' && seen.state !== 'X' && (start === NO_START || start === seen.start);
}

/** What `startOf` gives where the system does not say. */
export const NO_START = '0';
/** When a process began, in clock ticks since the machine was started. */
export const startOf = (pid: number): string => procStat(pid)?.start ?? NO_START;

/**
 * Where pids mean the same thing: this host since it was started and, on Linux, this container (pid namespace). 8 hex
 * digits.
 */
export function pidSpace(): string {
  // Hosts of one image share names, and their first namespaces a number.
  const parts = [hostname()];
  try {
    parts.push(readlinkSync('/proc/self/ns/pid'), readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim());
  } catch {
    /* not Linux */
  }
  return hash32(parts.join(' ')).toString(16).padStart(8, '0');
}

function procStat(pid: number): { state: string; start: string } | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' '); // the name before it may hold spaces and brackets
  return { state: fields[0], start: fields[19] };
}
