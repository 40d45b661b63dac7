// Checks and measures the cuda device on this machine's GPU: runs parts (parts.ts), each in a process of its own, and
// keeps what they tell. See bench/gpu/run.sh and README.md in this folder.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { appendFileSync, existsSync, globSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { PARTS, type Part } from './parts.ts';
import type { Line } from './report.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const HELP = `bench/gpu/run.sh [flags]: checks (stage A) and measures (stage B) the cuda device on this machine's GPU

  --stage A|B      only this stage (default: A, and B if nothing in A failed)
  --only NAME      only this part (may be given several times)
  --out FOLDER     where results are kept (default bench/gpu/results)
  --again          also run parts that have passed with this source and this machine
  --stand-in       run on a GPU that is only pretended on the CPU, with small sizes: a test of these scripts
  --json           print every result as a line of JSON
  --list           list the parts

Each part is a process with its own limit of time. Its results are written as they come, one JSON object a line, to
FOLDER/HASH/PART.jsonl; HASH stands for the source and the machine. A part that has passed with the same HASH is not run
again. The exit code is 1 if a part failed.
`;

/** How a part ended. */
interface End {
  readonly end: 'passed' | 'failed' | 'skipped';
  readonly why?: string;
  readonly seconds: number;
}

process.exitCode = await main();

async function main(): Promise<number> {
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        help: { type: 'boolean', short: 'h' },
        stage: { type: 'string' },
        only: { type: 'string', multiple: true },
        out: { type: 'string', default: join(import.meta.dirname, 'results') },
        again: { type: 'boolean' },
        'stand-in': { type: 'boolean' },
        json: { type: 'boolean' },
        list: { type: 'boolean' },
      },
    }));
  } catch (error) {
    return wrong(error instanceof Error ? error.message : String(error));
  }
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  if (values.list) {
    for (const p of PARTS) process.stdout.write(`${p.stage} ${p.name}: ${p.what} (at most ${p.seconds} s)\n`);
    return 0;
  }
  const { stage, only, out, again = false, json = false } = values;
  if (stage !== undefined && stage !== 'A' && stage !== 'B') return wrong(`there is no stage ${stage}: A or B`);
  const unknown = only?.find((name) => !PARTS.some((p) => p.name === name));
  if (unknown !== undefined)
    return wrong(`there is no part ${unknown}; the parts are ${PARTS.map((p) => p.name).join(', ')}`);

  const env = values['stand-in'] ? await standIn() : {},
    folder = join(out, hashOf(env));
  mkdirSync(folder, { recursive: true });
  say(json, { folder }, `results: ${folder}`);
  let failed = 0;
  for (const part of PARTS) {
    if (stage !== undefined ? part.stage !== stage : !only && part.stage === 'B' && failed > 0) continue;
    if (only && !only.includes(part.name)) continue;
    const before = again ? null : passed(folder, part);
    const end = before ?? (await run(part, folder, env, json));
    if (end.end === 'failed') failed++;
    const when = before ? ' before' : '',
      why = end.why === undefined ? '' : `: ${end.why}`;
    say(
      json,
      { part: part.name, before: before !== null, ...end },
      `${part.stage} ${part.name}: ${end.end}${when}, ${end.seconds.toFixed(1)} s${why}`,
    );
  }
  return failed > 0 ? 1 : 0;
}

function wrong(why: string): number {
  process.stderr.write(`bench/gpu: ${why}\n\n${HELP}`);
  return 2;
}

function say(json: boolean, object: object, line: string): void {
  process.stdout.write(`${json ? JSON.stringify(object) : line}\n`);
}

/** Variables that make a part use the pretended GPU. */
async function standIn(): Promise<Readonly<Record<string, string>>> {
  const { noStandin } = await import('../../tests/support/cuda/standin.ts');
  if (noStandin !== false) throw new Error(noStandin);
  // Importing it has set the variables of this process, which parts inherit.
  return { DYNAMOE_CUDA_DRIVER: process.env['DYNAMOE_CUDA_DRIVER'] ?? '', DYNAMOE_GPU_SMALL: '1' };
}

/** Stands for all that a result depends on: the source, these scripts, the cases, and the GPU with its driver. */
function hashOf(env: Readonly<Record<string, string>>): string {
  const hash = createHash('sha256');
  for (const file of globSync(['src/**/*', 'bench/**/*.{ts,py,json,sh}', 'tests/conformance/**/*.ts'], { cwd: ROOT })
    .filter((name) => /\.\w+$/.test(name) && !name.includes('node_modules') && !name.includes('results'))
    .sort())
    hash.update(file).update(readFileSync(join(ROOT, file)));
  hash.update(env['DYNAMOE_CUDA_DRIVER'] ?? machine());
  return hash.digest('hex').slice(0, 16);
}

/** The GPUs and the driver, as the driver's files name them. */
function machine(): string {
  return globSync('/proc/driver/nvidia/{version,gpus/*/information}')
    .sort()
    .map((file) => readFileSync(file, 'utf8'))
    .join('\n');
}

function fileOf(folder: string, part: Part): string {
  return join(folder, `${part.name}.jsonl`);
}

/** The end of a part that has passed; null if it has not. */
function passed(folder: string, part: Part): End | null {
  const file = fileOf(folder, part);
  if (!existsSync(file)) return null;
  const last = readFileSync(file, 'utf8').trimEnd().split('\n').at(-1) ?? '';
  try {
    const end = JSON.parse(last) as Partial<End>;
    return end.end === 'passed' ? (end as End) : null;
  } catch {
    return null; // the machine went down while the line was written
  }
}

/** Runs a part. What an earlier run of it told is kept beside it, as PART.jsonl.before. */
async function run(part: Part, folder: string, env: Readonly<Record<string, string>>, json: boolean): Promise<End> {
  const file = fileOf(folder, part),
    started = performance.now();
  if (existsSync(file)) renameSync(file, `${file}.before`);
  writeFileSync(file, '');
  const child = spawn(
    process.execPath,
    ['--conditions=dynamoe-source', join(import.meta.dirname, 'parts', `${part.name}.ts`)],
    { cwd: ROOT, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let late = false,
    checks = 0,
    stderr = '';
  const failures: string[] = [],
    skips: string[] = [];
  const limit = setTimeout(() => {
    late = true;
    child.kill('SIGKILL');
  }, part.seconds * 1000);
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-4000);
  });
  createInterface({ input: child.stdout }).on('line', (text) => {
    appendFileSync(file, `${text}\n`);
    const line = parsed(text);
    if (line === null) return;
    if ('check' in line) {
      checks++;
      if (!line.ok) failures.push(`${line.check}: ${line.why ?? 'does not hold'}`);
    }
    if ('skip' in line) skips.push(`${line.skip}: ${line.why}`);
    if (json) process.stdout.write(`${JSON.stringify({ part: part.name, ...line })}\n`);
    else process.stdout.write(`  ${described(line)}\n`);
  });
  const code = await new Promise<number | null>((done, fail) => {
    child.on('error', fail);
    child.on('close', done);
  });
  clearTimeout(limit);
  const seconds = (performance.now() - started) / 1000;
  const why = late
    ? `not finished after ${part.seconds} s`
    : code !== 0
      ? `the process ended with ${child.signalCode ?? `exit code ${code}`}: ${reasonIn(stderr)}`
      : failures.length > 0
        ? `${failures.length} of ${checks} checks do not hold; the first: ${failures[0]}`
        : checks === 0
          ? (skips[0] ?? 'it checked nothing')
          : null;
  const end: End =
    why === null
      ? { end: 'passed', seconds }
      : { end: !late && code === 0 && failures.length === 0 && skips.length > 0 ? 'skipped' : 'failed', why, seconds };
  appendFileSync(file, `${JSON.stringify(end)}\n`);
  return end;
}

function parsed(text: string): Line | null {
  try {
    return JSON.parse(text) as Line;
  } catch {
    return null; // a line that a library printed
  }
}

/** What a process said about its end: the error, without the places in the code. */
function reasonIn(stderr: string): string {
  const lines = stderr.trimEnd().split('\n'),
    error = lines.findIndex((line) => /Error\b/.test(line));
  return (error < 0 ? lines.slice(-4) : lines.slice(error, error + 4).filter((line) => !/^\s+at /.test(line))).join(
    '\n',
  );
}

function described(line: Line): string {
  if ('check' in line) return `${line.ok ? 'holds' : 'FAILS'}: ${line.check}${line.ok ? '' : `: ${line.why ?? ''}`}`;
  if ('figure' in line) return `${line.figure}: ${Number(line.value.toPrecision(4))} ${line.unit}`;
  if ('fact' in line) return `${line.fact}: ${line.is}`;
  return `not done: ${line.skip}: ${line.why}`;
}
