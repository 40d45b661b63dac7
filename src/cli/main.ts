// The command line: commands and their flags. In: argv; out: an exit code.
import { createRequire } from 'node:module';
import { Command } from 'commander';
import { addBench } from './bench.ts';
import { addDash } from './dash.ts';
import { addEval } from './eval.ts';
import { report } from './fail.ts';
import { addGenerate } from './generate.ts';
import { addInspect } from './inspect.ts';
import { addLab } from './lab.ts';
import { serveOwnImports } from './own-imports.ts';
import { addStart } from './start.ts';
import { endWithPipe } from './stop.ts';
import { addTrain } from './train.ts';

const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };

const program = new Command('dynamoe')
  .description('Mixture-of-experts deep learning: models that are compiled, trained and recompiled while they run.')
  .version(version, '--version', 'print the version')
  .option('--debug', 'show where an error comes from')
  .helpOption('-h, --help', 'show help')
  .showSuggestionAfterError()
  .configureOutput({ outputError: (text, write) => { write(`dynamoe: ${text.replace(/^error: /, '')}`); } });

for (const add of [addStart, addTrain, addDash, addEval, addGenerate, addInspect, addBench, addLab]) add(program);
for (const command of [program, ...program.commands, ...program.commands.flatMap((c) => c.commands)]) {
  command.exitOverride();
  const path = command === program ? '' : command.parent === program ? `${command.name()} ` : `${command.parent?.name() ?? ''} ${command.name()} `;
  command.showHelpAfterError(`  hint: dynamoe ${path}--help`);
}

endWithPipe();
serveOwnImports();
try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error, program.opts<{ debug?: boolean }>().debug ?? false);
}
