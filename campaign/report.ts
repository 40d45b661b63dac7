// Prints the progress and the results of a campaign: a bar on a terminal, lines in a pipe, JSON lines with --json. In:
// progress, findings, the summary. Out: text on stdout.
import { isScreen } from '../src/cli/screen.ts';
import type { Finding } from './attempts.ts';

/** The result of one part. */
export interface PartSummary {
  readonly part: string;
  readonly promise: string;
  readonly seconds: number;
  readonly attacks: number;
  /** Counts by kind: kills by moment, faults by point, inputs by format, ... */
  readonly figures: Readonly<Record<string, number>>;
  readonly findings: number;
}

export interface CampaignReport {
  /** share: the share of the time that has passed. */
  progress(part: string, attacks: number, share: number): void;
  finding(finding: Finding): void;
  say(line: string): void;
  end(summary: {
    readonly seed: number;
    readonly seconds: number;
    readonly parts: readonly PartSummary[];
    readonly findings: readonly Finding[];
  }): void;
}

const LINE_MS = 10_000; // between two lines of progress in a pipe
const BAR = 30; // characters

export function openReport(json: boolean): CampaignReport {
  const write = (text: string): void => {
    process.stdout.write(text);
  };
  if (json) {
    const tell = (event: object): void => {
      write(`${JSON.stringify(event)}\n`);
    };
    return {
      progress: () => undefined,
      say: (line) => {
        process.stderr.write(`${line}\n`);
      },
      finding: (finding) => {
        tell({ event: 'finding', ...finding });
      },
      end: (summary) => {
        tell({ event: 'campaign', ...summary });
      },
    };
  }
  const screen = isScreen(process.stdout),
    erase = screen ? '\r\x1b[K' : '';
  let told = 0,
    before = '';
  return {
    progress(part, attacks, share) {
      if (!screen && performance.now() - told < LINE_MS && before === part) return;
      told = performance.now();
      before = part;
      const full = Math.round(BAR * Math.min(1, share)),
        bar = screen ? `${'#'.repeat(full)}${'.'.repeat(BAR - full)} ` : '';
      write(`${erase}${bar}${Math.floor(100 * Math.min(1, share))}% ${part}, ${attacks} attacks${screen ? '' : '\n'}`);
    },
    say: (line) => {
      write(`${erase}${line}\n`);
    },
    finding: (finding) => {
      write(`${erase}${describe(finding)}\n`);
    },
    end: ({ seed, seconds, parts, findings }) => {
      write(
        `${erase}${table(parts)}\n\nseed ${seed}, ${Math.round(seconds)} s: ` +
          `${findings.length === 0 ? 'no findings' : `${findings.length} findings`}\n`,
      );
    },
  };
}

/** A finding in a few lines. */
const describe = ({ part, promise, what, seed, command }: Finding): string =>
  [
    `FOUND by ${part}${seed === null ? '' : `, seed ${seed}`}`,
    `  promised: ${promise}`,
    `  happened: ${what.trim().replaceAll('\n', '\n    ')}`,
    `  repeat: ${command}`,
  ].join('\n');

/** Markdown, for docs/reliability.md. */
export function table(parts: readonly PartSummary[]): string {
  const rows = parts.map(({ part, attacks, seconds, figures, findings }) => [
    part,
    String(attacks),
    `${Math.round(seconds)}`,
    Object.entries(figures)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, n]) => `${name} ${n}`)
      .join(', '),
    String(findings),
  ]);
  return [['part', 'attacks', 's', 'figures', 'findings'], ['---', '--:', '--:', '---', '--:'], ...rows]
    .map((row) => `| ${row.join(' | ')} |`)
    .join('\n');
}
