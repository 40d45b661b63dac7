#!/usr/bin/env node
// The command `dynamoe`. In a checkout it runs src/cli/main.ts on the locked Node 24; in the published package it
// imports the built command line. Plain JavaScript that any Node can parse, so that an old one gets a clear message.
import { existsSync } from 'node:fs';
import * as module from 'node:module';
import { homedir, platform } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const source = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url));
const [major, minor] = process.versions.node.split('.').map(Number);

/** Where compiled kernels are kept, too (src/device/native/cache.ts). */
function cacheFolder() {
  const { DYNAMOE_CACHE: named, XDG_CACHE_HOME: home } = process.env;
  return named || join(home ?? join(homedir(), ...(platform() === 'darwin' ? ['Library', 'Caches'] : ['.cache'])), 'dynamoe');
}

async function main() {
  // Node keeps what it made of our sources: a start takes a fifth of a second less. Where it cannot write, it goes on without.
  process.env.NODE_COMPILE_CACHE ??= join(cacheFolder(), 'code');
  module.enableCompileCache?.(process.env.NODE_COMPILE_CACHE);
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
