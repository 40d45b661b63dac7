#!/usr/bin/env node
// The command `dynamoe`. In a checkout it runs src/cli/main.ts on the locked Node 24; in the published package it
// imports the built command line. Plain JavaScript that any Node can parse, so that an old one gets a clear message.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const source = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url));
const [major, minor] = process.versions.node.split('.').map(Number);

async function main() {
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
