// `npm run compare` compares DynaMoE with other libraries on this machine. See README.md in this folder, and --help.
import { spawnSync } from 'node:child_process';
import { appendFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { othersBetween, refusal, snapshot } from './busy.ts';
import { beforeAndAfter, sameLoss, unfitCheckout } from './before.ts';
import { capacity, capacityTable } from './capacity.ts';
import { BusyError, contest } from './contest.ts';
import { formatted, titleLines } from './markdown.ts';
import { markdown } from './table.ts';
import { CAPACITIES, COMPARISONS, type Comparison } from './works.ts';

const HELP = `npm run compare -- [flags]: compares DynaMoE with PyTorch and others; prints tables in Markdown

  --list             list the comparisons and their contestants
  --only ID,ID       run only these comparisons
  --before DIR       compare only DynaMoE with another checkout of it (with installed packages): time and losses
  --out FILE         append each table to this file as soon as it is complete (default: stdout)
  --rounds N         turns of each contestant (default 7)
  --seconds S        approximate length of a turn (default 1)
  --threads N        number of threads (default: all cores)
  --patience S       seconds to wait for a quiet machine, before each comparison and before its second try (default 60)
  --even-if-busy     print tables also if other work takes more than a tenth of a core; each table says so
  --install          install the JavaScript peers into bench/compare
                     (for PyTorch: apt-get install python3-torch libopenblas0-openmp)

A comparison gives no figures if the machine was busy; the next one then begins. The exit code is 1 if this happened.
All comparisons together take about 25 minutes, or less if a peer is missing.
`;

const say = (line: string): void => {
  process.stderr.write(`${line}\n`);
};
const IDS = [...COMPARISONS, ...CAPACITIES].map((c) => c.id);
process.exitCode = await main();

interface Options {
  readonly rounds: number;
  readonly seconds: number;
  readonly threads: number;
  readonly patience: number;
  readonly evenIfBusy: boolean;
}

async function main(): Promise<number> {
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        help: { type: 'boolean', short: 'h' },
        install: { type: 'boolean' },
        list: { type: 'boolean' },
        only: { type: 'string' },
        before: { type: 'string' },
        out: { type: 'string' },
        'even-if-busy': { type: 'boolean' },
        rounds: { type: 'string', default: '7' },
        seconds: { type: 'string', default: '1' },
        threads: { type: 'string', default: String(availableParallelism()) },
        patience: { type: 'string', default: '60' },
      },
    }));
  } catch (error) {
    say(`compare: ${error instanceof Error ? error.message : String(error)}\n\n${HELP}`);
    return 2;
  }
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  if (values.install) return install();
  const wanted = values.only?.split(','),
    unknown = wanted?.find((id) => !IDS.includes(id));
  if (values.list || unknown !== undefined) {
    if (unknown !== undefined) say(`compare: there is no comparison named ${unknown}`);
    for (const { id, title, contestants } of [...COMPARISONS, ...CAPACITIES])
      say(`${id}: ${title}\n    ${contestants.map((c) => c.name).join('; ')}`);
    return unknown === undefined ? 0 : 2;
  }
  const [rounds, seconds, threads, patience] = [values.rounds, values.seconds, values.threads, values.patience].map(
    Number,
  );
  if (!(
    Number.isInteger(rounds) &&
    rounds >= 1 &&
    seconds > 0 &&
    Number.isInteger(threads) &&
    threads >= 1 &&
    patience >= 0
  )) {
    say(
      'compare: --rounds and --threads are whole numbers, --seconds is a number, all above 0; --patience is at least 0',
    );
    return 2;
  }
  const unfit = values.before === undefined ? null : unfitCheckout(values.before);
  if (unfit !== null) {
    say(`compare: --before: ${unfit}`);
    return 2;
  }
  if (process.platform !== 'linux') {
    say('compare: only Linux tells how busy the machine is, and how much memory a process took');
    return 1;
  }
  const options: Options = { rounds, seconds, threads, patience, evenIfBusy: values['even-if-busy'] ?? false },
    { out } = values;
  const write = async (markdown: string): Promise<void> => {
    const text = `${await formatted(markdown)}\n`;
    if (out !== undefined) appendFileSync(out, text);
    else process.stdout.write(text);
  };
  if (out !== undefined) writeFileSync(out, '');
  await write(
    [
      `${new Date().toISOString().slice(0, 10)}, ${cpus()[0].model}, ${availableParallelism()} cores, ${threads} ` +
        `threads, ${rounds} rounds in turns.`,
      'Memory: peak of the process above what it had with its libraries loaded and no parameter made.',
    ].join('\n'),
  );

  let refused = 0;
  const each = async (id: string, title: string, work: () => Promise<string>, own = options): Promise<void> => {
    if (wanted && !wanted.includes(id)) return;
    say(`${id}: ${title}`);
    const text = await quietly(work, own);
    if (text === null) refused++;
    await write(text ?? [...titleLines(title), 'No figures: the machine was busy.'].join('\n'));
  };
  for (const comparison of COMPARISONS) {
    const pairs = values.before === undefined ? [comparison] : beforeAndAfter(comparison, values.before);
    for (const one of pairs) await each(one.id, one.title, () => compared(one, options, values.before !== undefined));
  }
  if (values.before !== undefined) return refused > 0 ? 1 : 0;
  // Other work on the machine does not change the memory, so this does not wait for a quiet machine.
  for (const one of CAPACITIES) {
    const table = async (): Promise<string> => capacityTable(one, await capacity(one, { threads, say }));
    await each(one.id, one.title, table, { ...options, evenIfBusy: true });
  }
  return refused > 0 ? 1 : 0;
}

/**
 * Waits for a quiet machine and does the work. If the machine became busy, tries once more; null if it was busy again.
 */
async function quietly(work: () => Promise<string>, { patience, evenIfBusy }: Options): Promise<string | null> {
  for (let again = 0; again < 2; again++) {
    const until = performance.now() + 1000 * patience;
    for (let before = snapshot(), why: string | null = null; !evenIfBusy; before = snapshot()) {
      await pause(2000);
      why = refusal(othersBetween(before, snapshot(), process.pid));
      if (why === null) break;
      if (performance.now() > until) {
        say(`  no figures: ${why}\n  hint: stop it, more --patience, or --even-if-busy for a table that says so`);
        return null;
      }
    }
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof BusyError)) throw error;
      say(`  no figures: ${error.message}`);
    }
  }
  return null;
}

async function compared(comparison: Comparison, options: Options, pair: boolean): Promise<string> {
  const { entries, peak, others } = await contest(comparison, { ...options, say }),
    versions = [...new Set(entries.flatMap((e) => e.version ?? []))].sort();
  const busy = refusal({ cores: others.cores, worst: [] }) !== null;
  return [
    markdown(comparison, entries, peak),
    ...(pair ? [sameLoss(entries), ''] : []),
    ...(busy ? [`**Not a result**: other work took ${others.cores.toFixed(2)} cores while this ran.`, ''] : []),
    `${versions.join('; ')}. Peak of fused multiply-adds: ${peak?.toFixed(0) ?? '-'} GFLOP/s. Others took ` +
      `${others.cores.toFixed(2)} cores.`,
    '',
  ].join('\n');
}

/**
 * Installs the JavaScript peers into this folder. No install script runs: the one of onnxruntime would download CUDA.
 */
function install(): number {
  say('compare: for PyTorch: apt-get install python3-torch libopenblas0-openmp');
  const { status } = spawnSync('npm', ['ci', '--ignore-scripts'], {
    cwd: import.meta.dirname,
    stdio: 'inherit',
    env: { ...process.env, ONNXRUNTIME_NODE_INSTALL_CUDA: 'skip' },
  });
  return status ?? 1;
}
