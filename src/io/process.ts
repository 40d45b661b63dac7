// Identifies processes, for locks and temporary files that outlive their process.
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';
import { hash32 } from '../base/hash.ts';
import { codeOf } from './fault.ts';

/**
 * Whether the process `pid` that started at `start` (see `startOf`) is running here. Zombies are not. If the system
 * does not tell start times ('0'), any process with that pid counts.
 */
export function isRunning(pid: number, start: string): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (codeOf(error) !== 'EPERM') return false;
  }
  const seen = procStat(pid);
  if (seen === undefined) return true; // no /proc: only the pid is known
  return seen.state !== 'Z' && seen.state !== 'X' && (start === NO_START || start === seen.start);
}

/** The result of `startOf` if the system does not tell. */
export const NO_START = '0';
/** The start time of a process, in clock ticks since the machine was booted. */
export const startOf = (pid: number): string => procStat(pid)?.start ?? NO_START;

/**
 * Identifies the space in which pids are unique: this host since it was booted and, on Linux, this container (pid
 * namespace). 8 hex digits.
 */
export function pidSpace(): string {
  // The host name and the number of the first namespace may be the same on several machines; the boot id is not.
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
  // The process name, in brackets, may contain spaces and brackets itself.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { state: fields[0], start: fields[19] };
}
