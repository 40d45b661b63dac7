// How many questions of a task a model answers rightly. In: a session and questions; out: shares with intervals, and
// the answer to each question.
import { UserError } from '../base/errors.ts';
import { aFunction } from '../base/kinds.ts';
import { checkOptions } from '../base/options.ts';
import { pairedDifference, wilson, type Estimate, type Paired } from '../base/proportions.ts';
import { BYTES, generate, isCachedModel, NEWLINE } from '../session/generate.ts';
import { logLikelihoods } from '../session/likelihood.ts';
import type { Session } from '../session/session.ts';
import { checkQuestion, type Question } from './task-file.ts';

/**
 * What is counted. acc: the right choice has the largest log-likelihood. acc_norm: the largest log-likelihood per byte
 * of the choice in UTF-8. exact_match: the written text is the target. The first two are those of
 * lm-evaluation-harness, whose acc_norm divides by characters; of equal choices the first one counts.
 */
export type MeasureName = 'acc' | 'acc_norm' | 'exact_match';

/** Whether an answer is right, and the log-likelihoods of the choices in nats. */
export interface Answer {
  readonly right: Readonly<Partial<Record<MeasureName, boolean>>>;
  readonly logLikelihoods?: readonly number[];
  /** The beginning of the prompt was cut, because prompt and answer are longer than the context. */
  readonly cut: boolean;
}

/** The share of right answers with Wilson's 95% interval. */
export interface Measure extends Estimate {
  readonly questions: number;
  readonly right: number;
}

export interface TaskResult {
  /** In the order of the questions. */
  readonly answers: readonly Answer[];
  /** Of the kinds of questions that there are. */
  readonly measures: Readonly<Partial<Record<MeasureName, Measure>>>;
  /** The number of prompts that were cut. */
  readonly cut: number;
}

export interface TaskOptions {
  /** The tokens of a text; default: its bytes in UTF-8. Prompt, choices, targets and stops are encoded each alone. */
  readonly encode?: (text: string) => ArrayLike<number>;
  /** Called after each question with the share that is done. */
  readonly progress?: (share: number) => void;
  /** Asked before each question; true ends the work. */
  readonly stops?: () => boolean;
}

/**
 * Answers questions with the model of a session. Choices are compared by log-likelihood (`logLikelihoods`); texts are
 * generated at temperature 0, up to where they differ from the target. A prompt that does not fit into the context
 * together with the answer is cut at its beginning. An empty prompt of a model of bytes stands for the start of a line,
 * as for `generate`. null: `stops` said so. Rejects with a UserError, before any work, for a question with tokens that
 * the model does not know, with an answer longer than the context, or without a prompt where the model needs one.
 */
export async function evaluateTask(
  session: Session,
  questions: readonly Question[],
  options: TaskOptions = {},
): Promise<TaskResult | null> {
  checkOptions('evaluateTask', options, { encode: aFunction, progress: aFunction, stops: aFunction });
  const work = prepareTask(session, questions, options.encode),
    answers: Answer[] = [];
  for (const one of work) {
    if (options.stops?.()) return null;
    answers.push(await answerTo(session, one));
    options.progress?.(answers.length / work.length);
  }
  return { answers, measures: measuresOf(answers), cut: answers.filter((a) => a.cut).length };
}

/** A question as tokens. */
interface Prepared {
  readonly question: Question;
  /** The context of the model. */
  readonly context: number;
  readonly prompt: readonly number[];
  /** Of the choices; or of the target, and then of its stops. */
  readonly texts: readonly (readonly number[])[];
}

const inBytes = (text: string): Uint8Array => new TextEncoder().encode(text);

/** Checks all questions and makes tokens of them. Errors are those of `evaluateTask`. */
export function prepareTask(
  session: Session,
  questions: readonly Question[],
  encode: (text: string) => ArrayLike<number> = inBytes,
): Prepared[] {
  const { model } = session;
  if (!isCachedModel(model)) throw new UserError('evaluateTask needs a model with a cache, such as nn.TransformerLM');
  if (questions.length === 0) throw new UserError('evaluateTask: there are no questions');
  const { context, vocab } = model.options;
  return questions.map((given, i) => {
    const where = given.where ?? `question ${i}`,
      question = { ...checkQuestion(given, where), where };
    const tokensOf = (text: string): number[] => {
      const tokens = Array.from(encode(text)),
        bad = tokens.find((t) => !Number.isInteger(t) || t < 0 || t >= vocab);
      if (bad !== undefined)
        throw new UserError(`${where} holds token ${String(bad)}, and the model knows 0..${vocab - 1}`);
      return tokens;
    };
    const prompt = tokensOf(question.prompt),
      texts = ('choices' in question ? question.choices : [question.target, ...(question.stop ?? [])]).map(tokensOf);
    if (prompt.length === 0 && vocab !== BYTES) throw new UserError(`${where}: the prompt is empty`, 'give one token');
    if (texts.some((tokens) => tokens.length === 0)) throw new UserError(`${where}: a text has no tokens`);
    const [what, length] =
      'choices' in question
        ? ['a choice', Math.max(...texts.map((t) => t.length))]
        : ['the target with its stop', needed(texts)];
    if (length > context)
      throw new UserError(`${where}: ${what} has ${length} tokens, and the context of the model is ${context}`);
    return { question, context, prompt: prompt.length === 0 ? [NEWLINE] : prompt, texts };
  });
}

/** The tokens of a target and its longest stop. */
const needed = ([target, ...stops]: readonly (readonly number[])[]): number =>
  target.length + Math.max(0, ...stops.map((s) => s.length));

async function answerTo(session: Session, { question, context, prompt, texts }: Prepared): Promise<Answer> {
  const room = (answer: number): number => context + 1 - answer; // the last token of an answer is not read
  if ('choices' in question) {
    const found = await logLikelihoods(session, prompt, texts),
      perByte = found.map((l, i) => l / inBytes(question.choices[i]).length);
    return {
      right: { acc: largest(found) === question.answer, acc_norm: largest(perByte) === question.answer },
      logLikelihoods: found,
      cut: prompt.length > room(Math.max(...texts.map((t) => t.length))),
    };
  }
  const most = needed(texts),
    [target, ...stop] = texts,
    made: number[] = [];
  let same = true;
  for await (const token of generate(session, prompt.slice(-room(most)), { tokens: most, temperature: 0, stop })) {
    same = token === target[made.length];
    made.push(token);
    if (!same) break;
  }
  return { right: { exact_match: same && made.length === target.length }, cut: prompt.length > room(most) };
}

const largest = (values: readonly number[]): number => values.indexOf(Math.max(...values));

const NAMES: readonly MeasureName[] = ['acc', 'acc_norm', 'exact_match'];

function measuresOf(answers: readonly Answer[]): TaskResult['measures'] {
  const all = NAMES.map((name) => {
    const of = answers.flatMap(({ right }) => right[name] ?? []),
      right = of.filter(Boolean).length;
    return [name, { questions: of.length, right, ...(of.length > 0 ? wilson(right, of.length) : NONE) }] as const;
  });
  return Object.fromEntries(all.filter(([, { questions }]) => questions > 0));
}
const NONE: Estimate = { value: NaN, low: NaN, high: NaN };

/** The share of B minus the share of A with its 95% interval, and on how many questions each was right. */
export interface Comparison extends Estimate, Paired {}

/**
 * Compares two results for the same questions, measure by measure: the interval is that of paired shares (Newcombe
 * 1998, method 10; the formula is at `pairedDifference`), which is narrower than that of two independent shares if both
 * models mostly fail on the same questions. Throws UserError for results of different questions.
 */
export function compareTasks(a: TaskResult, b: TaskResult): Partial<Record<MeasureName, Comparison>> {
  const kinds = ({ answers }: TaskResult): string => answers.map(({ right }) => Object.keys(right).join()).join(' ');
  if (kinds(a) !== kinds(b)) throw new UserError('compareTasks: the two results are not of the same questions');
  const found = NAMES.filter((name) => a.measures[name]).map((name) => {
    const count = (inA: boolean, inB: boolean): number =>
      a.answers.filter(({ right }, i) => right[name] === inA && b.answers[i].right[name] === inB).length;
    const paired = {
      both: count(true, true),
      onlyA: count(true, false),
      onlyB: count(false, true),
      neither: count(false, false),
    };
    return [name, { ...pairedDifference(paired), ...paired }] as const;
  });
  return Object.fromEntries(found);
}
