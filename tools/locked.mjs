// `node tools/locked.mjs FILE ...ARGS`: runs a script of the project on the locked Node 24.
import { resolve } from 'node:path';
import { launch } from './runtime/launch.mjs';

try {
  const [file, ...args] = process.argv.slice(2);
  await launch(resolve(file), args);
} catch (error) {
  console.error(`dynamoe: ${error.message}`);
  process.exit(1);
}
