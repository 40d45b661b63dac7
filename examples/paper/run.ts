// `npm run paper -- --data FOLDER`: the paper's experiments, compared with policies. See README.md in this folder, and
// --help.
import { Command, InvalidArgumentError } from 'commander';
import { report } from '../../src/cli/fail.ts';
import { device, json, real, threads, whole } from '../../src/cli/flags.ts';
import { endWithPipe, stoppable } from '../../src/cli/stop.ts';
import { ConfigError } from '../../src/train/config-error.ts';
import { paper, type PaperFlags } from './paper.ts';
import { openReporter } from './progress.ts';
import { ROWS } from './rows.ts';
import { WORKLOADS } from './workloads.ts';

/** Names separated by commas. */
const some =
  (known: readonly string[]) =>
  (text: string): string[] => {
    const list = text.split(','),
      stranger = list.find((name) => !known.includes(name));
    if (stranger !== undefined)
      throw new InvalidArgumentError(`there is no "${stranger}": some of ${known.join(', ')}`);
    return list;
  };

const ids = WORKLOADS.map(({ id }) => id),
  rows = ROWS.map(({ id }) => id);
const command = new Command('paper')
  .description(
    'The experiments of "Optimizing Mixture of Experts using Dynamic Recompilations" (Kossmann et al. 2022):\n' +
      "compares fixed capacities, a schedule written by hand, and DynaMoE's policies on the same data.",
  )
  .option(
    '--data <path...>',
    'a folder with the MNIST digits, and text: files or folders (one folder may contain both)',
    [],
  )
  .option('--only <ids>', `some of ${ids.join(',')}`, some(ids))
  .option('--rows <names>', `some of ${rows.join(',')}; the default row always runs`, some(rows))
  .option('--seeds <n>', 'seeds of each table (default: set by each workload)', whole(1))
  .option('--scale <x>', 'factor for the number of steps of all tables', real(0, true), 1)
  .option(
    '--minutes <n>',
    'time limit: reduces the steps of all tables so that the run takes about this many minutes',
    real(0, true),
  )
  .option(
    '--lr <rates>',
    'learning rates for the workloads of --only, with a table for each (default: set by each workload)',
    (text: string) => text.split(',').map(real(0, true)),
  )
  .option('--full', 'more steps, and 5 seeds for every table; takes hours instead of minutes')
  .option('--plan', 'print what would run and how long it would take on this machine, without running it')
  .option('--out <folder>', 'folder for results.jsonl and results.md, which are written after each seed', 'runs/paper')
  .addOption(device().default('auto'))
  .addOption(threads())
  .addOption(json())
  .allowExcessArguments(false)
  .showSuggestionAfterError()
  .exitOverride()
  .configureOutput({
    outputError: (text, write) => {
      write(`paper: ${text.replace(/^error: /, '')}`);
    },
  })
  .action(async (flags: PaperFlags) => {
    if (flags.lr && !flags.only)
      throw new ConfigError(
        '--lr needs --only',
        'a rate that suits one workload does not suit the others: --only mlp --lr 0.01,0.1',
      );
    const reporter = openReporter(flags.json ?? false);
    try {
      const { code } = await stoppable(
        (stop) => paper(flags, reporter, stop, WORKLOADS),
        () => {
          reporter.say('stopping: what is done is kept; once more ends at once');
        },
      );
      if (code !== null) process.exitCode = code;
    } finally {
      reporter.close();
    }
  });

endWithPipe();
try {
  await command.parseAsync();
} catch (error) {
  process.exitCode = report(error, process.env['DEBUG'] !== undefined);
}
