// dynamoe eval
import type { Command } from 'commander';
import { TextDataset } from '../data/text.ts';
import { openCheckpoint } from '../train/open.ts';
import { validate } from '../train/validate.ts';
import { nothingCounts } from '../session/means.ts';
import { UserError } from '../base/errors.ts';
import { data, device, json, recompile, threads, type OpenFlags } from './flags.ts';
import { bits, fixed } from '../base/format.ts';
import { openReporter, recompiled } from './report.ts';
import { stoppable } from './stop.ts';
import { Exit } from './fail.ts';

export function defineEval(command: Command): void {
  command
    .argument('<checkpoint>', 'a checkpoint, or a run folder (its newest checkpoint)')
    .description(
      'Computes the validation loss of a checkpoint: the mean over all windows of the last tenth of each file, ' +
        'without dropout.',
    )
    .addOption(data())
    .option('--config <file>', 'the config file that built the model, if it was moved')
    .addOption(device())
    .addOption(threads())
    .addOption(recompile('auto'))
    .addOption(json())
    .action(evaluate);
}

async function evaluate(checkpoint: string, flags: OpenFlags): Promise<void> {
  const reporter = openReporter(flags.json ?? false),
    say = (line: string): void => {
      reporter.say(line);
    };
  try {
    const { path, step, experiment, session } = await openCheckpoint(checkpoint, {
      ...flags,
      say,
      events: (event) => {
        if (flags.json) process.stdout.write(`${JSON.stringify(event)}\n`);
        else say(recompiled(event));
      },
    });
    try {
      const set = experiment.data(say, flags.data);
      await set.fingerprint(); // missing data is reported as missing, not as too little held-out data
      const start = performance.now();
      const { result: found, code } = await stoppable(
        (stop) =>
          validate(session, experiment, set, stop, (share) => {
            reporter.busy('validating', share);
          }),
        () => undefined,
      );
      if (code !== null) throw new Exit(code);
      if (!found)
        throw new UserError(
          'there is too little held-out data to validate on',
          'name more text with --data, or use a shorter context',
        );
      if (found.count === 0) throw nothingCounts('eval', found.samples);
      reporter.close();
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
