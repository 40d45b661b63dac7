// dynamoe train
import { shellWord } from '../base/words.ts';
import { randomBytes } from 'node:crypto';
import { dirname, join } from 'node:path';
import { Option, type Command } from 'commander';
import type { Ranks } from '../device/ranks.ts';
import { agreed } from '../session/ranks.ts';
import { storedSettings } from '../io/run-folder.ts';
import { configure, parseSettings, rebuild, resumeSettings, type Configured } from '../train/configure.ts';
import type { DoneEvent } from '../train/events.ts';
import { ConfigError } from '../train/config-error.ts';
import type { DeviceName } from '../session/platform.ts';
import { KEEP } from '../train/schema.ts';
import { train } from '../train/train.ts';
import type { Logger } from '../train/logger.ts';
import { refuseFlags } from './check-flags.ts';
import { Exit } from './fail.ts';
import {
  dash,
  data,
  device,
  json,
  learningRate,
  MAX_SEED,
  modelFlags,
  noAuth,
  recompile,
  precision,
  several,
  threads,
  whole,
  type DashFlags,
  type TrainFlags,
} from './flags.ts';
import { fromRank0 } from '../train/ranks.ts';
import { overRanks, RankLog } from './ranks.ts';
import { openReporter, type Reporter } from './report.ts';
import { stoppable } from './stop.ts';

export function defineTrain(command: Command): void {
  command
    .argument('[config]', 'a .json or .ts file; without it the default language model')
    .description(
      'Trains a model: the default mixture-of-experts language model on text, or the one that a config file describes.',
    )
    .addOption(data())
    .option('--steps <n>', 'optimiser steps (default: 2000, or those of the run that is resumed)', whole(1))
    .option('--batch <n>', 'samples in a step (default: 12)', whole(1))
    .addOption(device())
    .addOption(threads())
    .option('--seed <n>', 'random seed for initial weights, dropout and data order (default: 0)', whole(0, MAX_SEED))
    .option('--out <folder>', 'run folder for checkpoints and events (default: a new one in runs/)')
    .option('--resume', 'continue the run in --out exactly as if it had not stopped')
    .option('--init <checkpoint>', 'fine-tune: a new run that starts from the parameters of a checkpoint or run folder')
    .addOption(
      new Option(
        '--init-rename <old=new>',
        'rename tensors of that checkpoint; * stands for any text; may be repeated',
      ).argParser(several),
    )
    .addOption(
      new Option(
        '--init-skip <pattern>',
        'leave out tensors of that checkpoint, and keep initial values of the model; may be repeated',
      ).argParser(several),
    )
    .option(
      '--eval-every <n>',
      'steps between validations; 0: only at the end (default: a quarter of the run, at least 100)',
      whole(0),
    )
    .option(
      '--save-every <n>',
      'steps between checkpoints; 0: only at the end (default: about every 10 seconds)',
      whole(0),
    )
    .addOption(
      new Option('--keep <which>', 'checkpoints that stay: last, or also that of the best validation').choices(KEEP),
    )
    .option('--patience <n>', 'end the run after n validations without a lower loss', whole(1))
    .addOption(
      new Option('--accumulate <n>', 'gradient accumulation steps: equal parts of the batch (default: 1)').argParser(
        whole(1),
      ),
    )
    .addOption(precision())
    .addOption(recompile())
    .option('--memory <MiB>', 'memory limit for weights, optimizer and activations (default: what is free)', whole(1))
    .addOption(dash())
    .addOption(noAuth())
    .option('--tensorboard', 'also write event files for TensorBoard, to the subfolder tensorboard of the run folder')
    .option('--trace <file>', 'record the loads of all experts in a file, for dynamoe lab')
    .addOption(json());
  modelFlags(command).addOption(learningRate());
  command.addHelpText(
    'after',
    `
Examples:
  dynamoe train --data books/ --steps 2000 --out runs/books
  dynamoe train --data books/ --steps 2000 --out runs/books --resume
  dynamoe train small.json --data books/ --json`,
  );
  command.action(async (file: string | undefined, flags: TrainFlags) => {
    refuseFlags(command, { auth: flags.dash === undefined && 'there is no page without --dash' });
    await overRanks(async (ranks) => {
      const configuration = await agreed(ranks, () => configured(file, flags, ranks));
      ranks?.same('the settings', JSON.stringify(configuration.settings));
      await runTraining(configuration, { ...flags, ranks, out: flags.out ?? fromRank0(ranks, newFolder) });
    });
  });
}

/** Settings from flags and a config file, or those of the run to resume. */
async function configured(
  file: string | undefined,
  flags: TrainFlags,
  ranks: Ranks | null = null,
): Promise<Configured> {
  if (!flags.resume) return configure(file, flags);
  if (flags.init !== undefined || flags.initRename || flags.initSkip)
    throw new ConfigError(
      '--init has no effect with --resume: a run that continues has its own parameters',
      'leave out --init, --init-rename and --init-skip, or start a new run without --resume',
    );
  if (flags.out === undefined) throw new ConfigError('--resume needs --out', 'dynamoe train --resume --out FOLDER');
  const stored = await storedSettings(flags.out).catch((error: unknown) => {
    if (error instanceof Error && error.message.includes('no such file')) return undefined;
    throw error;
  });
  const say = (line: string): void => {
    if (ranks === null || ranks.rank === 0) process.stderr.write(`dynamoe: ${line}\n`);
  };
  if (stored === undefined) {
    say(`there is no run in ${flags.out} yet: starting one`);
    return configure(file, flags);
  }
  const where = join(flags.out, 'run.json'),
    settings = resumeSettings(parseSettings(stored, where), flags, say);
  return { settings, experiment: await rebuild(settings, where, say, file) };
}

/** runs/2026-01-31-142530-3fa2 */
export function newFolder(): string {
  const [day, time] = new Date().toISOString().split('T');
  return join('runs', `${day}-${time.slice(0, 8).replaceAll(':', '')}-${randomBytes(2).toString('hex')}`);
}

export interface TrainingOptions extends DashFlags {
  readonly out: string;
  readonly resume?: boolean;
  readonly json?: boolean;
  readonly tensorboard?: boolean;
  readonly trace?: string;
  /** Overrides the device in the settings. */
  readonly device?: DeviceName;
  /** The processes that train together; null: this one alone. */
  readonly ranks?: Ranks | null;
}

/** Trains and reports on stdout. Throws Exit if the run was stopped. */
export async function runTraining({ settings, experiment }: Configured, options: TrainingOptions): Promise<DoneEvent> {
  const { out, resume = false, json = false, device, tensorboard = false, trace, ranks = null } = options,
    log = ranks && new RankLog(ranks);
  if (ranks && log && ranks.rank > 0) return follow({ settings, experiment }, options, ranks, log);
  // What few runs need is loaded only for them: the others start sooner.
  const traced =
    trace === undefined
      ? []
      : [(await import('../train/trace-log.ts')).traceLog(trace, experiment.model, { resumed: resume })];
  const reporter: Reporter = openReporter(json),
    page = options.dash ? await (await import('./dash.ts')).openPage(out, options) : null;
  let folder = out; // the folder may be moved during the run
  const placed: Logger = {
    log: (event) => {
      if (event.event === 'stopped') folder = dirname(event.checkpoint);
    },
  };
  const loggers: Logger[] = [
    reporter,
    placed,
    ...(log ? [log] : []),
    ...traced,
    ...(page
      ? [
          page.logger((line) => {
            reporter.say(line);
          }),
        ]
      : []),
    ...(tensorboard ? [(await import('../train/tensorboard.ts')).tensorBoard()] : []),
  ];
  try {
    const { result, code } = await stoppable(
      (stop) =>
        train({
          settings,
          experiment,
          out,
          resume,
          stop,
          ...(device && { device }),
          ranks,
          loggers,
          say: (line) => {
            reporter.say(line);
            log?.say(line);
          },
          busy: (what, share) => {
            reporter.busy(what, share);
          },
        }),
      () => {
        reporter.say('stopping after this step; press Ctrl-C again to stop at once');
      },
      ranks !== null,
    );
    if (result) return result;
    reporter.close();
    process.stderr.write(
      'dynamoe: stopped and saved; to continue: dynamoe train --resume --out ' + `${shellWord(folder)}\n`,
    );
    throw new Exit(code ?? 0);
  } finally {
    await page?.close();
    reporter.close();
  }
}

/** Takes part in a run as a rank other than 0, which keeps the run folder and prints. */
async function follow(
  configuration: Configured,
  { out, resume = false, device }: TrainingOptions,
  ranks: Ranks,
  log: RankLog,
): Promise<DoneEvent> {
  const say = (line: string): void => {
    log.say(line);
  };
  const { result, code } = await stoppable(
    (stop) => train({ ...configuration, out, resume, stop, ...(device && { device }), ranks, loggers: [log], say }),
    () => {
      say('stopping after this step');
    },
    true,
  );
  if (result) return result;
  throw new Exit(code ?? 0);
}
