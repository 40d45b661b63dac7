// dynamoe eval --task: right answers of one checkpoint, or of two side by side.
import { UserError } from '../base/errors.ts';
import { table } from '../base/format.ts';
import type { Estimate } from '../base/proportions.ts';
import type { Ranks } from '../device/ranks.ts';
import { shownPath } from '../io/fault.ts';
import { openCheckpoint, type Opened } from '../train/open.ts';
import { RunRanks } from '../train/ranks.ts';
import { compareTasks, evaluateTask, prepareTask, type MeasureName, type TaskResult } from '../train/task.ts';
import { readTask, type Question } from '../train/task-file.ts';
import { Exit } from './fail.ts';
import type { OpenFlags } from './flags.ts';
import { openReporter, recompiled, silent, type Reporter } from './report.ts';
import { stoppable } from './stop.ts';

/** paths: one checkpoint or two. */
export async function evaluateTasks(
  task: string,
  paths: readonly string[],
  flags: OpenFlags,
  ranks: Ranks | null,
): Promise<void> {
  const together = new RunRanks(ranks),
    reporter = together.leads ? openReporter(flags.json ?? false) : silent,
    opened: Opened[] = [];
  try {
    const questions = await together.agreed(() => readTask(task));
    for (const path of paths) opened.push(await openOne(path, flags, ranks, reporter));
    await together.agreed(async () => {
      checkTokens(opened);
      for (const { session } of opened) prepareTask(session, questions);
    });
    const results: TaskResult[] = [];
    for (const [i, one] of opened.entries()) {
      const start = performance.now(),
        what = opened.length === 1 ? 'answering' : `answering, checkpoint ${i + 1} of ${opened.length}`,
        found = await answers(one, questions, ranks, (share) => {
          reporter.busy(what, share);
        });
      results.push(found);
      if (found.cut > 0) reporter.say(cutText(one, questions, found));
      if (together.leads && flags.json) writeEvents(one, questions, found, performance.now() - start);
    }
    reporter.close();
    if (!together.leads) return;
    if (flags.json) writeComparison(opened, results);
    else process.stdout.write(`${shownResults(opened, task, results).join('\n')}\n`);
  } finally {
    for (const { session } of opened) await session.close();
    reporter.close();
  }
}

function openOne(path: string, flags: OpenFlags, ranks: Ranks | null, reporter: Reporter): Promise<Opened> {
  const say = (line: string): void => {
    reporter.say(line);
  };
  return openCheckpoint(path, {
    ...flags,
    ranks,
    say,
    events: (event) => {
      if (flags.json) writeEvent(event);
      else say(recompiled(event));
    },
  });
}

/** Log-likelihoods of texts can be compared only if both models read them as the same tokens. */
function checkTokens(opened: readonly Opened[]): void {
  const sizes = opened.map(
    ({ session }) => (session.model as { readonly options?: { vocab?: number } }).options?.vocab,
  );
  if (new Set(sizes).size > 1)
    throw new UserError(
      `the checkpoints have different tokens: vocabularies of ${sizes.join(' and ')}`,
      'compare checkpoints with the same vocabulary, or evaluate each alone',
    );
}

async function answers(
  { session }: Opened,
  questions: readonly Question[],
  ranks: Ranks | null,
  progress: (share: number) => void,
): Promise<TaskResult> {
  const { result, code } = await stoppable(
    async (stop) => {
      const asked = new RunRanks(ranks, stop);
      return evaluateTask(session, questions, { progress, stops: () => asked.asksToStop() });
    },
    () => undefined,
  );
  if (code !== null || !result) throw new Exit(code ?? 0);
  return result;
}

const LINES_SHOWN = 5;

function cutText({ path, experiment }: Opened, questions: readonly Question[], { answers, cut }: TaskResult): string {
  const where = questions.filter((_, i) => answers[i].cut).map((q) => q.where ?? ''),
    more = cut > LINES_SHOWN ? ` and ${cut - LINES_SHOWN} more` : '';
  return (
    `${shownPath(path)}: ${cut} of ${questions.length} prompts do not fit into the context of ` +
    `${experiment.context} tokens with their answers; their beginnings are cut: ` +
    `${where.slice(0, LINES_SHOWN).join(', ')}${more}`
  );
}

const writeEvent = (event: object): void => {
  process.stdout.write(`${JSON.stringify(event)}\n`);
};

function writeEvents(
  { path, step }: Opened,
  questions: readonly Question[],
  { answers, measures, cut }: TaskResult,
  ms: number,
): void {
  answers.forEach(({ right, logLikelihoods, cut }, i) => {
    const likely = logLikelihoods && { log_likelihoods: logLikelihoods };
    writeEvent({ event: 'answer', question: questions[i].where, ...right, ...likely, cut, checkpoint: path });
  });
  writeEvent({
    event: 'task',
    step,
    questions: questions.length,
    cut,
    measures,
    ms: Math.round(ms),
    checkpoint: path,
  });
}

function writeComparison(opened: readonly Opened[], results: readonly TaskResult[]): void {
  if (results.length < 2) return;
  const measures = Object.entries(compareTasks(results[0], results[1])).map(([name, c]) => [
    name,
    {
      difference: c.value,
      low: c.low,
      high: c.high,
      both: c.both,
      only_a: c.onlyA,
      only_b: c.onlyB,
      neither: c.neither,
    },
  ]);
  writeEvent({
    event: 'comparison',
    a: opened[0].path,
    b: opened[1].path,
    measures: Object.fromEntries(measures) as object,
  });
}

const percent = (x: number): string => (100 * x).toFixed(1),
  interval = ({ low, high }: Estimate): string => `${percent(low)} to ${percent(high)}`,
  signed = (x: number): string => `${x > 0 ? '+' : ''}${percent(x)}`;

/** The tables for people: right answers of each checkpoint, and the difference of two. */
function shownResults(opened: readonly Opened[], task: string, results: readonly TaskResult[]): string[] {
  const named = opened.map(({ path, step }, i) => `${'AB'[i]}: ${shownPath(path)}, step ${step}`),
    [first, second] = results,
    names = Object.keys(first.measures) as MeasureName[];
  const lines = [
    `${first.answers.length} questions of ${shownPath(task)}`,
    ...(second ? named : [named[0].slice('A: '.length)]),
    '',
  ];
  const rows = names.flatMap((name) =>
    results.map((result, i) => {
      const m = result.measures[name]!;
      return [name, ...(second ? ['AB'[i]] : []), `${m.right}`, `${m.questions}`, percent(m.value), interval(m)];
    }),
  );
  lines.push(table(['measure', ...(second ? ['of'] : []), 'right', 'questions', '%', '95% interval'], rows));
  if (!second) return lines;
  const compared = Object.entries(compareTasks(first, second)).map(([name, c]) => [
    name,
    signed(c.value),
    `${signed(c.low)} to ${signed(c.high)}`,
    `${c.onlyA}`,
    `${c.onlyB}`,
    `${c.both}`,
    `${c.neither}`,
  ]);
  const head = ['measure', 'B - A', '95% interval', 'only A right', 'only B right', 'both', 'neither'];
  return [...lines, '', table(head, compared)];
}
