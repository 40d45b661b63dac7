// dynamoe dash, and the page of `dynamoe train --dash`.
import { readdir, stat } from 'node:fs/promises';
import { basename, join, relative, resolve } from 'node:path';
import type { Command } from 'commander';
import { UserError } from '../base/errors.ts';
import { openDash, type Dash } from '../dash/server.ts';
import { codeOf, fault } from '../io/fault.ts';
import { EVENTS } from '../io/run-folder.ts';
import type { Logger } from '../train/logger.ts';
import { Exit } from './fail.ts';
import { noAuth, whole, type DashFlags } from './flags.ts';
import { stoppable } from './stop.ts';

const MAX_RUNS = 12; // on a page

export function defineDash(command: Command): void {
  command
    .argument('<run...>', 'run folders, or folders of run folders')
    .description(
      'Serves a page about runs on this machine and prints its URL. The page follows live runs. Ctrl-C ends the ' +
        'server.',
    )
    .option('--port <n>', 'port of the page (default: 6600, or a free one)', whole(1, 65535))
    .addOption(noAuth())
    .addHelpText(
      'after',
      `
Examples:
  dynamoe dash runs/books
  dynamoe dash runs/a runs/b        two runs, with their curves in one chart
  dynamoe dash runs                 the newest ${MAX_RUNS} runs in a folder`,
    )
    .action(serve);
}

interface ServeFlags {
  readonly port?: number;
  readonly auth: boolean;
}

async function serve(paths: readonly string[], { port, auth }: ServeFlags): Promise<void> {
  const folders = (await Promise.all(paths.map(runsIn))).flat();
  const dash = await openDash({ runs: uniqueNames([...new Set(folders)]), port, auth });
  try {
    const { code } = await stoppable(
      (stop) =>
        new Promise<void>((end) => {
          stop.addEventListener('abort', () => {
            end();
          });
          process.stdout.write(`${folders.length === 1 ? 'the run' : `${folders.length} runs`} on ${dash.url}\n`);
        }),
      () => undefined,
    );
    throw new Exit(code ?? 0);
  } finally {
    await dash.close();
  }
}

/** The run folder at a path, or the run folders in it, newest first. */
async function runsIn(path: string): Promise<string[]> {
  const changed = (folder: string): Promise<number | null> =>
    stat(join(folder, EVENTS)).then(
      (s) => s.mtimeMs,
      () => null,
    );
  if ((await changed(path)) !== null) return [path];
  const names = await readdir(path).catch((error: unknown) => {
    if (!['ENOENT', 'ENOTDIR'].includes(codeOf(error) ?? '')) throw fault('read', path, error);
    throw new UserError(`there is no folder ${path}`, 'dynamoe dash RUN names the --out folder of a run');
  });
  const found = (
    await Promise.all(names.map(async (name) => ({ folder: join(path, name), at: await changed(join(path, name)) })))
  ).flatMap(({ folder, at }) => (at === null ? [] : [{ folder, at }]));
  if (found.length === 0)
    throw new UserError(
      `${path} contains no run: there is no ${EVENTS} in it`,
      'dynamoe dash RUN names the --out folder of a run',
    );
  if (found.length > MAX_RUNS)
    process.stdout.write(`${path}: showing the newest ${MAX_RUNS} of ${found.length} runs; name others one by one\n`);
  return found
    .sort((a, b) => b.at - a.at)
    .slice(0, MAX_RUNS)
    .map(({ folder }) => folder);
}

/** Gives runs their folder names, or their paths if names are not unique. */
function uniqueNames(folders: readonly string[]): { name: string; folder: string }[] {
  const names = folders.map((folder) => basename(resolve(folder))),
    alike = new Set(names).size < names.length;
  return folders.map((folder, i) => ({
    folder,
    name: alike ? relative(process.cwd(), resolve(folder)) || folder : names[i],
  }));
}

interface Page {
  logger(say: (line: string) => void): Logger;
  close(): Promise<void>;
}

/** Opens the page of a run. Its URL is printed when the run starts. */
export async function openPage(out: string, { dash: wanted, auth = true }: DashFlags): Promise<Page> {
  const port = typeof wanted === 'number' ? wanted : undefined,
    dash: Dash = await openDash({ runs: uniqueNames([out]), port, auth });
  return {
    logger: (say) => ({
      log: (event) => {
        if (event.event === 'start') say(`watch it on ${dash.url}`);
      },
    }),
    close: () => dash.close(),
  };
}
