// npm run compare: DynaMoE beside what people use today, on this machine. See README.md in this folder.
//   npm run compare -- --install            the JavaScript peers, once
//   npm run compare -- --only layer-e8,lm   some of the comparisons
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { othersBetween, refusal, snapshot } from './busy.ts';
import { BusyError, contest } from './contest.ts';
import { markdown } from './table.ts';
import { COMPARISONS } from './works.ts';

const say = (line: string): void => { process.stderr.write(`${line}\n`); };
const { values } = parseArgs({ options: {
  install: { type: 'boolean' }, list: { type: 'boolean' }, only: { type: 'string' }, out: { type: 'string' }, 'even-if-busy': { type: 'boolean' },
  rounds: { type: 'string', default: '7' }, seconds: { type: 'string', default: '1' }, threads: { type: 'string', default: String(availableParallelism()) },
} });

process.exitCode = await main();

async function main(): Promise<number> {
  if (values.install) return install();
  const wanted = values.only?.split(','), unknown = wanted?.find((id) => !COMPARISONS.some((c) => c.id === id));
  if (values.list || unknown !== undefined) {
    if (unknown !== undefined) say(`compare: there is no comparison named ${unknown}`);
    for (const { id, title, contestants } of COMPARISONS) say(`${id}: ${title}\n    ${contestants.map((c) => c.name).join('; ')}`);
    return unknown === undefined ? 0 : 2;
  }
  const [rounds, seconds, threads] = [values.rounds, values.seconds, values.threads].map(Number);
  if (!(Number.isInteger(rounds) && rounds >= 1 && seconds > 0 && Number.isInteger(threads) && threads >= 1)) {
    say('compare: --rounds and --threads are whole numbers, --seconds is a number, all above 0');
    return 2;
  }
  if (process.platform !== 'linux') {
    say('compare: only Linux tells how busy the machine is, and how much memory a process took');
    return 1;
  }
  const evenIfBusy = values['even-if-busy'] ?? false, before = snapshot();
  await pause(2000);
  const already = refusal(othersBetween(before, snapshot(), process.pid));
  if (already !== null && !evenIfBusy) return refuse(already);

  const parts: string[] = [], versions = new Set<string>();
  let busiest = 0;
  for (const comparison of COMPARISONS.filter(({ id }) => wanted?.includes(id) ?? true)) {
    say(`${comparison.id}: ${comparison.title}`);
    try {
      const { entries, peak, others } = await contest(comparison, { rounds, seconds, threads, evenIfBusy, say });
      parts.push(markdown(comparison, entries, peak));
      busiest = Math.max(busiest, others.cores);
      for (const { version } of entries) if (version !== null) versions.add(version);
    } catch (error) {
      if (error instanceof BusyError) return refuse(error.message);
      throw error;
    }
  }
  const quiet = refusal({ cores: busiest, worst: [] }) === null;
  const text = [
    ...(quiet ? [] : [`**Not a result**: other work took ${busiest.toFixed(2)} cores while this ran.`, '']),
    `${new Date().toISOString().slice(0, 10)}, ${cpus()[0].model}, ${availableParallelism()} cores, ${threads} threads; ${[...versions].sort().join('; ')}. ${rounds} rounds in turns; others took at most ${busiest.toFixed(2)} cores.`,
    'Memory: peak of the process above what it had with its libraries loaded and no parameter made.', '', ...parts].join('\n');
  if (values.out !== undefined) writeFileSync(values.out, text);
  else process.stdout.write(text);
  return 0;
}

function refuse(why: string): number {
  say(`compare: no figures: ${why}\n  hint: stop it, or --even-if-busy for a table that says so`);
  return 1;
}

/** The JavaScript peers, into this folder. No install script runs: onnxruntime's would fetch CUDA. */
function install(): number {
  say('compare: for PyTorch: apt-get install python3-torch libopenblas0-openmp');
  const { status } = spawnSync('npm', ['ci', '--ignore-scripts'], { cwd: import.meta.dirname, stdio: 'inherit', env: { ...process.env, ONNXRUNTIME_NODE_INSTALL_CUDA: 'skip' } });
  return status ?? 1;
}
