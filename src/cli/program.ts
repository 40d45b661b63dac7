// The commands and their flags. In: arguments; out: a Command that parses and runs them.
import { createRequire } from 'node:module';
import { Command } from 'commander';
import { checkFlags } from './check-flags.ts';

const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };

interface Row {
  readonly name: string;
  readonly usage: string;
  readonly summary: string;
  /** Loads the command's file, which adds arguments, flags and an action to the command. */
  readonly load: () => Promise<(command: Command) => void>;
}

/**
 * What `dynamoe --help` shows, in its order. The files of commands import most of the library, so a file is loaded
 * only if the arguments contain the command's name. All others start sooner without it.
 */
const COMMANDS: readonly Row[] = [
  {
    name: 'start',
    usage: '[options]',
    summary: 'two minutes of training, as `npm start` does it',
    load: async () => (await import('./start.ts')).defineStart,
  },
  {
    name: 'new',
    usage: '[options] <folder>',
    summary: 'make a small project that runs at once',
    load: async () => (await import('./new.ts')).defineNew,
  },
  {
    name: 'train',
    usage: '[options] [config]',
    summary: 'train a model',
    load: async () => (await import('./train.ts')).defineTrain,
  },
  {
    name: 'dash',
    usage: '[options] <run...>',
    summary: 'show finished and live runs on a page, and compare them',
    load: async () => (await import('./dash.ts')).defineDash,
  },
  {
    name: 'eval',
    usage: '[options] <checkpoint> [other]',
    summary: 'measure a trained model, or compare two',
    load: async () => (await import('./eval.ts')).defineEval,
  },
  {
    name: 'generate',
    usage: '[options] <checkpoint>',
    summary: 'write text with a trained model',
    load: async () => (await import('./generate.ts')).defineGenerate,
  },
  {
    name: 'inspect',
    usage: '[options] [config]',
    summary: 'show what the compiler makes of a model',
    load: async () => (await import('./inspect.ts')).defineInspect,
  },
  {
    name: 'bench',
    usage: '[options] [command]',
    summary: 'measure speed',
    load: async () => (await import('./bench.ts')).defineBench,
  },
  {
    name: 'lab',
    usage: '[options] [trace]',
    summary: 'try policies on recorded or generated loads',
    load: async () => (await import('./lab.ts')).defineLab,
  },
];

/** args: the arguments after the program's name. */
export async function programFor(args: readonly string[]): Promise<Command> {
  const program = new Command('dynamoe')
    .description('Mixture-of-experts deep learning: models are compiled, trained, and recompiled while they run.')
    .version(version, '--version', 'print the version')
    .option('--debug', 'show where an error comes from')
    .helpOption('-h, --help', 'show help')
    .showSuggestionAfterError()
    .configureHelp({ subcommandTerm: (command) => `${command.name()} ${command.usage()}` })
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

  for (const { name, usage, summary, load } of COMMANDS) {
    const command = program.command(name).usage(usage).summary(summary);
    if (args.includes(name)) (await load())(command);
  }
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
