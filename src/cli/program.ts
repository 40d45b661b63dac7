// The commands and their flags. In: argv; out: a Command that parses them and runs what they ask for.
import { createRequire } from 'node:module';
import { Command } from 'commander';
import { addBench } from './bench.ts';
import { addDash } from './dash.ts';
import { addEval } from './eval.ts';
import { checkFlags } from './flags.ts';
import { addGenerate } from './generate.ts';
import { addInspect } from './inspect.ts';
import { addLab } from './lab.ts';
import { addStart } from './start.ts';
import { addTrain } from './train.ts';

const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };

/** args: what follows the name of the program. */
export function programFor(args: readonly string[]): Command {
  const program = new Command('dynamoe')
    .description('Mixture-of-experts deep learning: models that are compiled, trained and recompiled while they run.')
    .version(version, '--version', 'print the version')
    .option('--debug', 'show where an error comes from')
    .helpOption('-h, --help', 'show help')
    .showSuggestionAfterError()
    .configureOutput({
      outputError: (text, write) => {
        // --data takes all paths that follow it.
        const taken =
          text.includes('missing required argument') && args.includes('--data')
            ? '  hint: it goes before --data, which takes all that follows it\n'
            : '';
        write(`dynamoe: ${text.replace(/^error: /, '')}${taken}`);
      },
    })
    .hook('preAction', (_, command) => {
      checkFlags(command, args);
    });

  for (const add of [addStart, addTrain, addDash, addEval, addGenerate, addInspect, addBench, addLab]) add(program);
  for (const command of [program, ...program.commands, ...program.commands.flatMap((c) => c.commands)]) {
    command.exitOverride();
    const path =
      command === program
        ? ''
        : command.parent === program
          ? `${command.name()} `
          : `${command.parent?.name() ?? ''} ${command.name()} `;
    command.showHelpAfterError(`  hint: dynamoe ${path}--help`);
  }
  return program;
}
