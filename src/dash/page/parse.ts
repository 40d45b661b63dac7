// A line of a log. In: text; out: the event, or null for what is none: a log may be damaged, or of a later version.
import type { LogEvent } from '../../train/events.ts';

export function parsed(line: string): LogEvent | null {
  try {
    const value = JSON.parse(line) as unknown;
    return typeof value === 'object' && value !== null && typeof (value as { event?: unknown }).event === 'string' ? value as LogEvent : null;
  } catch {
    return null;
  }
}
