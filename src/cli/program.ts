// The commands and their flags. In: arguments; out: a Command that parses and runs them.
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

/** args: the arguments after the program's name. */
export function programFor(args: readonly string[]): Command {
  const program = new Command('dynamoe')
    .description('Mixture-of-experts deep learning: models are compiled, trained, and recompiled while they run.')
    .version(version, '--version', 'print the version')
    .option('--debug', 'show where an error comes from')
    .helpOption('-h, --help', 'show help')
    .showSuggestionAfterError()
    .configureOutput({
      outputError: (text, write) => {
        // The argument was probably read as one of the paths of --data.
        const taken =
          text.includes('missing required argument') && args.includes('--data')
            ? '  hint: put it before --data, which takes all arguments after it\n'
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
