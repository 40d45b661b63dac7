// Shows the progress of a run: a bar on a terminal, plain lines in a pipe, JSON lines with --json. In: events. Out:
// text on stdout.
import { bar, duration } from '../../src/base/format.ts';
import { isScreen, Screen } from '../../src/cli/screen.ts';
import type { Failure, Result } from './contest.ts';

export interface Planned {
  readonly event: 'plan';
  readonly workload: string;
  readonly learning_rate: number;
  readonly rows: readonly string[];
  readonly seeds: number;
  readonly steps: number;
  readonly step_ms: number;
  readonly seconds: number;
}
export type PaperEvent =
  | Planned
  | { readonly event: 'skipped'; readonly workload: string; readonly row?: string; readonly why: string }
  | {
      readonly event: 'progress';
      readonly workload: string;
      readonly learning_rate: number;
      readonly seed: number;
      readonly share: number;
      readonly seconds: number;
      readonly left: number;
    }
  | ({ readonly event: 'result'; readonly workload: string; readonly learning_rate: number; readonly steps: number } & (
      Result | Failure
    ))
  | { readonly event: 'table'; readonly workload: string; readonly learning_rate: number; readonly markdown: string };

export interface Reporter {
  tell(event: PaperEvent): void;
  /** A message that is not an event. */
  say(line: string): void;
  close(): void;
}

export function openReporter(json: boolean): Reporter {
  if (json)
    return {
      tell: (event) => {
        process.stdout.write(`${JSON.stringify(event)}\n`);
      },
      say: (line) => {
        process.stderr.write(`paper: ${line}\n`);
      },
      close: () => undefined,
    };
  if (isScreen(process.stdout)) {
    const screen = new Screen(process.stdout),
      print = (line: string): void => {
        screen.print(line);
      };
    return {
      say: print,
      close: () => {
        screen.close();
      },
      tell(event) {
        if (event.event === 'progress') screen.draw([drawn(event)]);
        else for (const line of lines(event)) print(line);
      },
    };
  }
  const print = (line: string): void => {
    process.stdout.write(`${line}\n`);
  };
  let said = -Infinity;
  return {
    say: print,
    close: () => undefined,
    tell(event) {
      if (event.event !== 'progress') {
        lines(event).forEach(print);
        return;
      }
      if (performance.now() - said < 15_000) return;
      said = performance.now();
      print(written(event));
    },
  };
}

type Progress = Extract<PaperEvent, { event: 'progress' }>;
const written = ({ workload, learning_rate, seed, share, seconds, left }: Progress): string =>
  `${workload}, learning rate ${learning_rate}, seed ${seed}: ` +
  `${Math.floor(100 * share)}% of all in ${duration(seconds)}, about ${duration(left)} left`;
const drawn = (event: Progress): string => `${bar(event.share, 24)} ${written(event)}`;

function lines(event: PaperEvent): string[] {
  switch (event.event) {
    case 'plan':
      return [
        `${event.workload}, learning rate ${event.learning_rate}: ${event.rows.length} rows, ` +
          `${event.seeds} ${event.seeds === 1 ? 'seed' : 'seeds'}, ${event.steps} steps; ` +
          `a step of the default row takes ${event.step_ms.toFixed(2)} ms: about ${duration(event.seconds)}`,
      ];
    case 'skipped':
      return [`${event.workload}${event.row === undefined ? '' : `, row "${event.row}"`}: left out: ${event.why}`];
    case 'table':
      return ['', ...event.markdown.trimEnd().split('\n'), ''];
    case 'result':
      return [];
    case 'progress':
      return [written(event)];
  }
}
