// dynamoe eval
import type { Command } from 'commander';
import { TextDataset } from '../data/text.ts';
import { openCheckpoint } from '../train/open.ts';
import { agreedError } from '../session/ranks.ts';
import type { Ranks } from '../device/ranks.ts';
import { RunRanks } from '../train/ranks.ts';
import { validate } from '../train/validate.ts';
import { nothingCounts } from '../session/means.ts';
import { UserError } from '../base/errors.ts';
import { data, device, json, recompile, threads, type OpenFlags } from './flags.ts';
import { bits, fixed } from '../base/format.ts';
import { refuseFlags } from './check-flags.ts';
import { evaluateTasks } from './eval-task.ts';
import { overRanks } from './ranks.ts';
import { openReporter, recompiled, silent } from './report.ts';
import { stoppable } from './stop.ts';
import { Exit } from './fail.ts';
import { ConfigError } from '../train/config-error.ts';

export function defineEval(command: Command): void {
  command
    .argument('<checkpoint>', 'a checkpoint, or a run folder (its newest checkpoint)')
    .argument('[other]', 'with --task: another checkpoint, to compare with the first')
    .description(
      'Computes the validation loss of a checkpoint: the mean over all windows of the last tenth of each file, ' +
        'without dropout. With --task, counts right answers to questions instead, with 95% intervals.',
    )
    .addOption(data())
    .option(
      '--task <file>',
      'questions, one JSON object per line: {"prompt", "choices", "answer"}, or {"prompt", "target", "stop"}',
    )
    .option('--config <file>', 'the config file that built the model, if it was moved')
    .addOption(device())
    .addOption(threads())
    .addOption(recompile('auto'))
    .addOption(json())
    .action((checkpoint: string, other: string | undefined, flags: EvalFlags) =>
      overRanks(async (ranks) => {
        const { task } = flags;
        refuseFlags(command, { data: task !== undefined && 'a task has its own questions' });
        if (task === undefined && other !== undefined)
          throw new ConfigError('a second checkpoint is compared by the questions of a task', 'name one with --task');
        if (task === undefined) await evaluate(checkpoint, flags, ranks);
        else await evaluateTasks(task, [checkpoint, ...(other === undefined ? [] : [other])], flags, ranks);
      }),
    );
}

interface EvalFlags extends OpenFlags {
  readonly task?: string;
}

async function evaluate(checkpoint: string, flags: OpenFlags, ranks: Ranks | null): Promise<void> {
  const together = new RunRanks(ranks),
    reporter = together.leads ? openReporter(flags.json ?? false) : silent,
    say = (line: string): void => {
      reporter.say(line);
    };
  try {
    const { path, step, experiment, session } = await openCheckpoint(checkpoint, {
      ...flags,
      ranks,
      say,
      events: (event) => {
        if (flags.json) process.stdout.write(`${JSON.stringify(event)}\n`);
        else say(recompiled(event));
      },
    });
    try {
      const set = await together.agreed(async () => {
        const named = experiment.data(say, flags.data);
        await named.fingerprint(); // missing data is reported as missing, not as too little held-out data
        return named;
      });
      const start = performance.now();
      const { result, code } = await stoppable(
        async (stop) => {
          const asked = new RunRanks(ranks, stop),
            found = await validate(
              session,
              experiment,
              set,
              () => asked.asksToStop(),
              (share) => {
                reporter.busy('validating', share);
              },
            );
          return { found, stopped: asked.stopping };
        },
        () => undefined,
      );
      const { found, stopped } = result;
      if (code !== null || stopped) throw new Exit(code ?? 0);
      if (!found)
        throw agreedError(
          new UserError(
            'there is too little held-out data to validate on',
            'name more text with --data, or use a shorter context',
          ),
        );
      if (found.count === 0) throw agreedError(nothingCounts('eval', found.samples));
      reporter.close();
      if (!together.leads) return;
      const metrics = Object.keys(found.metrics).length > 0 ? { metrics: found.metrics } : {};
      const event = {
        event: 'eval',
        step,
        val_loss: found.loss,
        ...metrics,
        samples: found.samples,
        counted: found.count,
        ms: Math.round(performance.now() - start),
        checkpoint: path,
      };
      if (flags.json) process.stdout.write(`${JSON.stringify(event)}\n`);
      else {
        const perByte = set instanceof TextDataset ? ` (${fixed(bits(found.loss))} bits per byte)` : '';
        process.stdout.write(
          `step ${step}  validation loss ${fixed(found.loss, 4)}${perByte}  over ${found.samples} ` +
            `${set instanceof TextDataset ? 'windows' : 'samples'}\n`,
        );
        for (const [name, value] of Object.entries(found.metrics)) process.stdout.write(`${name} ${fixed(value, 4)}\n`);
      }
    } finally {
      await session.close();
    }
  } finally {
    reporter.close();
  }
}
