#!/usr/bin/env node
// The command `dynamoe`. In a checkout it runs src/cli/main.ts on the locked Node 24; in the published package it
// imports the built command line. This is plain JavaScript that any Node can parse, so that an old Node gets a clear
// message.
import { existsSync } from 'node:fs';
import * as module from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cacheFolders, refusal } from './cache-folder.mjs';

const source = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url));
const [major, minor] = process.versions.node.split('.').map(Number);

/** A folder that belongs to this user alone; '' if there is none. */
function codeFolder() {
  const code = (folder) => ({ path: join(folder.path, 'code'), named: false, shared: false });
  const found = cacheFolders().find((folder) => refusal(folder) === null && refusal(code(folder)) === null);
  return found === undefined ? '' : code(found).path;
}

async function main() {
  // Node keeps its compiled form of the sources in this folder, which makes a start 0.2 s faster. If Node cannot write
  // there, it continues without.
  process.env.NODE_COMPILE_CACHE ??= codeFolder();
  if (process.env.NODE_COMPILE_CACHE !== '') module.enableCompileCache?.(process.env.NODE_COMPILE_CACHE);
  if (existsSync(source)) {
    const { launch } = await import('../tools/runtime/launch.mjs');
    await launch(source, process.argv.slice(2));
  } else if (major < 22 || (major === 22 && minor < 18)) {
    throw new Error(`needs Node 22.18 or newer; this is Node ${process.versions.node} (${process.execPath})`);
  } else {
    await import('../dist/cli/main.js');
  }
}

main().catch((error) => {
  console.error(`dynamoe: ${error.message}`);
  process.exit(1);
});
