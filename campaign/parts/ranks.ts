// Runs over ranks of which a rank or mpirun is killed, stopped or interrupted, at random moments and at chosen ones.
// The job must end and say why; the run continues on another number of ranks.
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { missing, openMpi } from '../../tests/support/mpi.ts';
import { assertPromise, type AttackContext, type Part } from '../part.ts';
import { Job, onThisMachine, send, type JobOptions, type Ranks } from '../support/job.ts';
import { momentFields, MomentWatch, type Moment } from '../support/moments.ts';
import { checkEnded, checkReadable, checkResumed } from '../support/resumed.ts';
import { configIn, trainArgs, uninterrupted, type Settings } from '../support/small-run.ts';

type How = 'rank killed' | 'mpirun killed' | 'rank stopped' | 'Ctrl-C';

interface Kill extends Moment {
  readonly on: Ranks;
  readonly how: How;
  /** Modulo the number of ranks. */
  readonly rank: number;
}
interface Case {
  readonly settings: Settings;
  readonly kills: readonly Kill[];
  readonly last: Ranks;
}

const SIGNALS = {
  'rank killed': 'SIGKILL',
  'mpirun killed': 'SIGKILL',
  'rank stopped': 'SIGSTOP',
  'Ctrl-C': 'SIGINT',
} as const;

/** A moment that has not come after this many steps comes then. */
const LATEST = 8;
/** A job ends so long after a kill: ms. A rank that was stopped is missed after 5 s. */
const ENDS = 15_000,
  PROMISE = 'a job that is killed ends at once',
  SAYS_WHY = 'a job that is killed names rank and reason in one line';

const moe = { experts: 4, topK: 2, hidden: 8, capacity: 'dropless', overflow: 'drop', dispatch: 'ragged' } as const,
  run = {
    steps: 40,
    batch: 8,
    accumulate: 1,
    seed: 1,
    saveEvery: 4,
    evalEvery: 15,
    recompile: 'auto',
    precision: 'float32',
    model: { layers: 1, dModel: 8, heads: 2, context: 8, dropout: 0, tied: false, moe },
    optimizer: { name: 'adamW', lr: 0.01, schedule: 'cosine' },
  } as const satisfies Settings;
/** Few, so that attacks share kernels and the results of the uninterrupted run. */
const RUNS: readonly Settings[] = [
  run,
  {
    ...run,
    accumulate: 2,
    recompile: 'adaptCapacity',
    precision: 'bfloat16',
    model: { ...run.model, dropout: 0.1, moe: { ...moe, capacity: 1, overflow: 'spill', dispatch: 'padded' } },
  },
  {
    ...run,
    recompile: 'adaptCapacity',
    saveEvery: 3,
    model: { ...run.model, moe: { ...moe, capacity: 0.5, dispatch: 'padded' } },
  },
  { ...run, recompile: 'expertLifecycle', optimizer: { name: 'sgd', lr: 0.02, schedule: 'constant' } },
  // Nothing divides by the ranks.
  { ...run, batch: 3, recompile: 'chooseDispatch,specialise', model: { ...run.model, moe: { ...moe, experts: 3 } } },
  { ...run, saveEvery: 7, precision: 'bfloat16-weights', model: { ...run.model, layers: 2, tied: true, moe: null } },
];

const kill: fc.Arbitrary<Kill> = fc.record({
  ...momentFields(8),
  on: fc.constantFrom<Ranks[]>(
    { mpi: 'Open MPI', ranks: 2 },
    { mpi: 'Open MPI', ranks: 2 },
    { mpi: 'Open MPI', ranks: 4 },
    { mpi: 'MPICH', ranks: 2 },
    { mpi: 'Open MPI', ranks: 1 },
  ),
  how: fc.constantFrom<How[]>('rank killed', 'rank killed', 'mpirun killed', 'rank stopped', 'Ctrl-C'),
  rank: fc.nat(3),
});

export const ranks: Part<Case> = {
  name: 'ranks',
  promise: 'a job over ranks that is killed ends at once, says why, and continues on any number of ranks',
  share: 4,
  limit: 300,
  knownFaults: ['lost-line'],
  missing: () => missing(openMpi),
  cases: fc.record({
    settings: fc.constantFrom(...RUNS),
    kills: fc.array(kill, { minLength: 1, maxLength: 5 }),
    last: fc.constantFrom<Ranks[]>(
      { mpi: 'none', ranks: 1 },
      { mpi: 'Open MPI', ranks: 2 },
      { mpi: 'MPICH', ranks: 2 },
      { mpi: 'Open MPI', ranks: 4 },
    ),
  }),
  attack,
};

async function attack({ settings, kills, last }: Case, context: AttackContext): Promise<void> {
  const { folder, shared, knownFault } = context,
    out = join(folder, 'run'),
    cache = join(folder, 'cache'),
    place = { device: 'native', threads: 1 } as const;
  const whole = await uninterrupted(shared, settings, place);
  assertPromise('the settings of this attack are valid', whole !== null, () => JSON.stringify(settings));
  await mkdir(out);
  await mkdir(cache);
  const trace = settings.model.moe && join(folder, 'trace.jsonl'),
    config = await configIn(folder, shared, settings),
    args = trainArgs(config, out, place, '--resume', ...(trace === null ? [] : ['--trace', trace]));
  const options: JobOptions = {
    env: {
      // A rank that is killed leaves its shared memory behind.
      OMPI_MCA_btl_vader_backing_directory: folder,
      ...(knownFault !== null && { DYNAMOE_CAMPAIGN_PLANT: knownFault }),
    },
    preload: knownFault === null ? [] : [new URL('../insert-fault.ts', import.meta.url).href],
  };
  for (const k of kills) {
    const killed = await runUntil(k, args, options, { out, cache, ms: whole.ms });
    if (killed === null) break; // The job ended before the kill.
    context.count('kills');
    context.count(killed.how);
    context.count(killed.doing);
    context.count(`of ${killed.where}`);
    await checkReadable(out);
  }
  const job = new Job(args, last, options);
  try {
    checkEnded(await job.ended);
  } finally {
    job.kill();
  }
  context.count('runs compared');
  await checkResumed(out, whole, trace);
}

interface Killed {
  readonly how: How;
  readonly doing: string;
  readonly where: string;
}

/** Runs until the kill and checks how the job ends. null: it ended before. */
async function runUntil(
  { on, how: drawn, rank: of, ...moment }: Kill,
  args: readonly string[],
  options: JobOptions,
  folders: { readonly out: string; readonly cache: string; readonly ms: number },
): Promise<Killed | null> {
  const rank = of % on.ranks,
    // Nobody misses a process that is alone.
    how = on.ranks === 1 && drawn === 'rank stopped' ? 'rank killed' : drawn,
    where = `${on.ranks} ${on.ranks === 1 ? 'rank' : 'ranks'} of ${on.mpi}`;
  const cold = moment.at === 'compiling',
    due = Promise.withResolvers<void>(),
    watch = new MomentWatch(moment, { ...folders, latest: LATEST }, due.resolve);
  const job = new Job(args, on, {
    ...options,
    env: { ...options.env, ...(cold && { DYNAMOE_CACHE: folders.cache }) },
    line: (text) => {
      watch.line(text);
    },
  });
  try {
    await Promise.race([due.promise, job.ended]);
    const pid = how === 'mpirun killed' || how === 'Ctrl-C' ? job.pid : await job.rank(rank),
      { doing } = watch,
      killed = pid !== null && send(pid, SIGNALS[how]),
      began = performance.now(),
      left = await job.gone(killed ? onThisMachine(ENDS) : Infinity),
      seconds = ((performance.now() - began) / 1000).toFixed(1),
      what = `${how} (rank ${rank}) ${doing} in ${where}`;
    assertPromise(PROMISE, left.length === 0, () => `${what}: ${left.join(', ')} after ${seconds} s`);
    const ended = await job.ended,
      { code, stdout, stderr } = ended;
    if (!killed || (code === 0 && stdout.includes('"event":"done"'))) {
      checkEnded(ended);
      return null;
    }
    // After Ctrl-C, the mpirun of MPICH 4.0.2 sometimes ends with 0 although all ranks end with 130, of any program.
    const lost = how === 'Ctrl-C' && on.mpi === 'MPICH' && stderr.includes('stopped and saved');
    assertPromise(PROMISE, code !== 0 || lost, () => `${what}: exit status 0\n${stderr}`);
    checkReason({ how, rank, doing }, what, `${stderr}\n${stdout.replaceAll(/^\{.*\n/gm, '')}`);
    return { how, doing, where };
  } finally {
    watch.close();
    job.kill();
  }
}

/**
 * A rank prints why it ends the job, unless mpirun ended that rank, too, before it could; then mpirun says why. Before
 * MPI has started, only mpirun knows that a rank has ended; Open MPI's does not always say which.
 */
function checkReason(
  { how, rank, doing }: { readonly how: How; readonly rank: number; readonly doing: string },
  what: string,
  text: string,
): void {
  const lines = text.split('\n').filter((line) => /^rank \d+(, step \d+.*)?: /.test(line)),
    expected = {
      'rank killed': new RegExp(
        [
          `: rank ${rank} \\(process \\d+\\) has ended$`,
          'signal 9',
          'EXIT CODE: 9',
          ...(doing.includes('starting') ? ['^Primary job'] : []),
        ].join('|'),
        'm',
      ),
      'rank stopped': new RegExp(
        `: rank ${rank} (has given no sign of life for \\d|was stopped before all ranks had started)`,
      ),
      'mpirun killed': /^/,
      'Ctrl-C': /^/,
    }[how];
  assertPromise(SAYS_WHY, expected.test(text) && lines.length <= 1, () => `${what}:\n${text}`);
}
