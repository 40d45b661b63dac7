// The command line. In: argv; out: an exit code.
import { report } from './fail.ts';
import { serveOwnImports } from './own-imports.ts';
import { programFor } from './program.ts';
import { endWithPipe } from './stop.ts';

const args = process.argv.slice(2),
  program = await programFor(args);

endWithPipe();
serveOwnImports();
try {
  await program.parseAsync(args, { from: 'user' });
} catch (error) {
  process.exitCode = report(error, program.opts<{ debug?: boolean }>().debug ?? false);
}
