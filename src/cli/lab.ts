// dynamoe lab: replays recorded or generated expert loads through policies, without training.
import { writeFile } from 'node:fs/promises';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { UserError } from '../base/errors.ts';
import { fault } from '../io/fault.ts';
import { checkCapacity } from '../nn/moe/capacity.ts';
import { OVERFLOWS, type Overflow } from '../nn/moe/routing.ts';
import { DISPATCHES, type Dispatch } from '../nn/moe/strategies.ts';
import { PRICES } from '../recompile/lab/cost.ts';
import { DEFAULTS, generate, WORKLOADS } from '../recompile/lab/generate.ts';
import { replay, type Replayed } from '../recompile/lab/replay.ts';
import { traceLines, type Trace } from '../recompile/lab/trace.ts';
import { readTrace } from '../recompile/lab/trace-file.ts';
import { LAB_NAMES, policyWith } from '../recompile/policies/select.ts';
import type { Rule } from '../recompile/rule.ts';
import { ConfigError } from '../train/config-error.ts';
import { refuseFlags } from './check-flags.ts';
import { capacityOf, json, MAX_SEED, real, whole } from './flags.ts';
import { bytes, count } from '../base/format.ts';
import { recompiled } from './report.ts';

const SLOW = 1e8; // so many random numbers take more than seconds to generate

interface LabFlags {
  readonly generate?: string;
  readonly policy?: readonly string[];
  readonly table?: boolean;
  readonly out?: string;
  readonly seed: number;
  readonly steps: number;
  readonly tokens: number;
  readonly experts: number;
  readonly topK: number;
  readonly capacity?: 'dropless' | number;
  readonly dispatch?: Dispatch;
  readonly overflow?: Overflow;
  readonly dropPrice: number;
  readonly price: number;
  readonly json?: boolean;
}

const oneOrMore = (text: string, before: readonly string[] = []): string[] => {
  try {
    policyWith(text);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message.split('\n')[0]);
  }
  return [...before, text];
};

export function defineLab(command: Command): void {
  command
    .argument('[trace]', 'a file that dynamoe train --trace or dynamoe lab --generate wrote')
    .description(
      'Replays loads through policies and the recompilation engine, without training. Reports rows, drops, ' +
        'bytes, recompilations, and the extra cost compared with perfect foresight (regret).',
    )
    .addOption(
      new Option(
        '--generate <name>',
        `generate loads: ${Object.entries(WORKLOADS)
          .map(([name, { about }]) => `${name} (${about})`)
          .join('; ')}`,
      ).choices(Object.keys(WORKLOADS)),
    )
    .option(
      '--policy <name,options>',
      `replay with this policy, such as adaptCapacity,quantile=0.9; can be repeated: ${LAB_NAMES.join(', ')}`,
      oneOrMore,
    )
    .option('--table', 'try every policy on every generated workload, and print a Markdown table')
    .option('--out <file>', 'file for generated loads (default: stdout)')
    .option('--seed <n>', 'random seed of generated loads', whole(0, MAX_SEED), DEFAULTS.seed)
    .option('--steps <n>', 'steps of generated loads', whole(1), DEFAULTS.steps)
    .option('--tokens <n>', 'tokens per step', whole(1), DEFAULTS.tokens)
    .option('--experts <n>', 'experts in the layer', whole(1), DEFAULTS.experts)
    .option('--top-k <n>', 'experts per token', whole(1), DEFAULTS.k)
    .addOption(json())
    .optionsGroup('Initial settings of every layer, instead of those in the trace:')
    .option('--capacity <c>', 'capacity factor, or dropless', capacityOf)
    .addOption(new Option('--dispatch <name>', 'how tokens are moved to experts').choices(DISPATCHES))
    .addOption(new Option('--overflow <what>', 'what happens to tokens beyond a capacity').choices(OVERFLOWS))
    .optionsGroup('Prices:')
    .option('--drop-price <rows>', 'cost of a dropped choice, in rows', real(0), PRICES.drop)
    .option('--price <steps>', 'cost of a recompilation, in steps of even load', real(0), PRICES.recompilation)
    .action(lab);
}

/** Flags that have no effect beside the others. */
function unused(
  file: string | undefined,
  { table, policy, generate: name, capacity }: LabFlags,
): Record<string, string | boolean> {
  const all = table === true && '--table tries every policy on every workload',
    replays = table !== true && policy === undefined && 'nothing is replayed without --policy';
  const loads = file !== undefined && table !== true && 'the loads are those of the trace',
    made = name === undefined && loads;
  return {
    generate: all,
    policy: all,
    out: all || (policy !== undefined && 'replayed loads are not written'),
    json: all || (policy === undefined && 'generated loads are written as JSON lines anyway'),
    seed: made,
    steps: made,
    tokens: made,
    experts: made,
    topK: made,
    dropPrice: replays,
    price: replays,
    overflow: capacity === 'dropless' && 'a dropless layer has no capacity',
  };
}

async function lab(file: string | undefined, flags: LabFlags, command: Command): Promise<void> {
  if (flags.table && file !== undefined)
    throw new ConfigError('lab --table generates its loads and uses no trace', `leave out ${file} or --table`);
  refuseFlags(command, unused(file, flags));
  if (flags.table) {
    process.stdout.write(await table(flags));
    return;
  }
  const trace = await traceOf(file, flags);
  if (!flags.policy) {
    if (file !== undefined)
      throw new UserError('lab needs a policy to replay the trace with', '--policy adaptCapacity');
    if (flags.out === undefined) process.stdout.write(traceLines(trace));
    // Does not overwrite an existing file.
    else
      try {
        await writeFile(flags.out, traceLines(trace), { flag: 'wx' });
      } catch (error) {
        throw fault('write', flags.out, error);
      }
    return;
  }
  const result = await replay(trace, flags.policy.map(policyWith), pricesOf(flags));
  process.stdout.write(
    flags.json
      ? [...result.events, { event: 'lab', policies: flags.policy, ...result, events: undefined }]
          .map((e) => `${JSON.stringify(e)}\n`)
          .join('')
      : describe(result),
  );
}

const pricesOf = ({ dropPrice: drop, price: recompilation }: LabFlags): typeof PRICES => ({
  ...PRICES,
  drop,
  recompilation,
});

async function traceOf(file: string | undefined, flags: LabFlags): Promise<Trace> {
  const { capacity, dispatch, overflow, topK: k, generate: name, steps, seed, tokens, experts } = flags,
    settings = {
      ...(capacity !== undefined && { capacity }),
      ...(dispatch && { dispatch }),
      ...(overflow && { overflow }),
    };
  if ((file === undefined) === (name === undefined))
    throw new UserError(
      'lab needs loads: a trace, or --generate, and not both',
      'dynamoe lab --generate drift --policy adaptCapacity',
    );
  if (name !== undefined && steps * tokens * experts > SLOW)
    process.stderr.write(
      `dynamoe: generating ${steps} steps of ${tokens} tokens over ${experts} experts, which may take minutes\n`,
    );
  if (name !== undefined) return generate(name, { steps, seed, tokens, experts, k, ...settings });
  const { layers, ...read } = await readTrace(file ?? '', (line) => {
    process.stderr.write(`dynamoe: ${line}\n`);
  });
  if (capacity !== undefined) for (const layer of layers) checkCapacity(capacity, layer.experts);
  const all = layers.map((layer) => ({ ...layer, ...settings }));
  if (overflow && all.every((layer) => layer.capacity === 'dropless'))
    throw new ConfigError(
      '--overflow has no effect here: every layer of the trace is dropless',
      '--capacity gives them one',
    );
  return { ...read, layers: all };
}

const percent = (share: number, digits = 1): string =>
  Number.isFinite(share) ? `${(100 * share).toFixed(digits)}%` : '-';

function describe(r: Replayed): string {
  return `${[
    ...r.events.map(recompiled),
    `${r.steps} steps, ${count(r.choices)} choices: ${percent(r.dropped / r.choices, 2)} dropped, ` +
      `${percent(r.spilled / r.choices, 2)} spilled; ${count(r.computed)} rows computed, ` +
      `${percent(r.padded / r.computed)} of them empty`,
    `planned bytes beside states: ${bytes(r.meanBytes)} on average, ${bytes(r.bytes)} at most; recompilations: ` +
      `${r.recompilations}, with perfect foresight: ${r.clairvoyant.recompilations}`,
    `extra cost compared with perfect foresight (regret): ${percent(r.regret)}, ${percent(r.settled)} from step ` +
      `128 on; of the best capacities that never change: ${percent(r.constant)}`,
  ].join('\n')}\n`;
}

/** A table of regret from step 128 on and of recompilations; for adaptCapacity also the details. */
async function table(flags: LabFlags): Promise<string> {
  const { steps, seed, tokens, experts, topK: k } = flags,
    cells = (row: readonly string[]): string => `| ${row.join(' | ')} |\n`;
  const columns: readonly (readonly [string, () => Rule<object>[]])[] = [
    ['none', () => []],
    ...LAB_NAMES.map((name) => [name, () => [policyWith(name)]] as const),
    ['all', () => LAB_NAMES.map(policyWith)],
  ];
  let regrets = '',
    details = '';
  for (const overflow of flags.overflow ? [flags.overflow] : OVERFLOWS) {
    for (const name of Object.keys(WORKLOADS)) {
      const trace = generate(name, {
        steps,
        seed,
        tokens,
        experts,
        k,
        overflow,
        ...(flags.capacity !== undefined && { capacity: flags.capacity }),
        ...(flags.dispatch && { dispatch: flags.dispatch }),
      });
      const row: string[] = [];
      for (const [column, rules] of columns) {
        const r = await replay(trace, rules(), pricesOf(flags));
        if (row.length === 0) row.push(name, overflow, percent(r.constant));
        row.push(`${percent(r.settled)} (${r.recompilations})`);
        if (column === 'adaptCapacity')
          details += cells([
            name,
            overflow,
            percent(r.dropped / r.choices, 2),
            percent(r.spilled / r.choices, 2),
            percent(r.padded / r.computed),
            bytes(r.meanBytes),
            `${r.recompilations}, ${r.clairvoyant.recompilations}`,
            percent(r.regret),
            percent(r.settled),
          ]);
      }
      regrets += cells(row);
    }
  }
  const head = ['loads', 'overflow', 'best constant', ...columns.map(([name]) => name)],
    more = [
      'loads',
      'overflow',
      'dropped',
      'spilled',
      'rows that are empty',
      'planned bytes, mean',
      'recompilations, with foresight',
      'regret',
      'from step 128 on',
    ];
  const ruled = (row: readonly string[]): string => cells(row) + cells(row.map(() => '---'));
  return `${ruled(head)}${regrets}\nadaptCapacity:\n\n${ruled(more)}${details}`;
}
