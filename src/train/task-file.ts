// Questions for a language model, from a file with one JSON object per line. In: a path; out: checked questions.
import { UserError, messageOf } from '../base/errors.ts';
import { closest, shown } from '../base/options.ts';
import { shownPath } from '../io/fault.ts';
import { linesOf } from '../io/lines.ts';

/** A question with several answers, of which the most probable one is the model's. */
export interface ChoiceQuestion {
  readonly prompt: string;
  /** At least 2 texts. Each directly follows the prompt: a space between them is part of one of the two. */
  readonly choices: readonly string[];
  /** The index of the right choice. */
  readonly answer: number;
  /** Where the question stands, for messages: `tasks.jsonl:3`. */
  readonly where?: string;
}

/** A question that the model answers by writing. */
export interface TextQuestion {
  readonly prompt: string;
  /** What must be written, at temperature 0. */
  readonly target: string;
  /** Where the text ends. Without it, the text ends with the length of the target. */
  readonly stop?: readonly string[];
  /** Where the question stands, for messages: `tasks.jsonl:3`. */
  readonly where?: string;
}

export type Question = ChoiceQuestion | TextQuestion;

/**
 * The questions of a file: each line is {"prompt", "choices", "answer"} or {"prompt", "target", "stop"}. Rejects with a
 * UserError, which names the file and the line, for any other line, and for a file without lines.
 */
export async function readTask(path: string): Promise<Question[]> {
  const questions: Question[] = [],
    file = shownPath(path);
  for await (const lines of linesOf(path))
    for (const line of lines) questions.push(parsed(line, `${file}:${questions.length + 1}`));
  if (questions.length === 0) throw new UserError(`${file} is empty: it holds no question`, EXAMPLE);
  return questions;
}

const EXAMPLE = 'a line: {"prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": 1}';

function parsed(line: string, where: string): Question {
  if (line.trim() === '') throw new UserError(`${where} is empty`, EXAMPLE);
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new UserError(`${where} is not JSON: ${messageOf(error)}`, EXAMPLE);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new UserError(`${where} must be an object, got ${shown(value)}`, EXAMPLE);
  return { ...checkQuestion(value, where), where };
}

const CHOICE = ['prompt', 'choices', 'answer'],
  TEXT = ['prompt', 'target', 'stop'];

/** Throws UserError, which begins with `where`, for what is no question. */
export function checkQuestion(question: object, where: string): Question {
  const { prompt, choices, answer, target, stop } = question as Readonly<Record<string, unknown>>,
    known = 'choices' in question ? CHOICE : 'target' in question ? TEXT : null,
    bad = (what: string, hint = EXAMPLE): UserError => new UserError(`${where}: ${what}`, hint);
  if (!known) throw bad('a question needs "choices" and "answer", or "target"');
  const unknown = Object.keys(question).find((key) => key !== 'where' && !known.includes(key));
  if (unknown !== undefined) {
    const near = closest(unknown, known);
    throw bad(
      `unknown key ${shown(unknown)}`,
      `${near === null ? '' : `did you mean "${near}"? `}the keys are ${known.join(', ')}`,
    );
  }
  if (typeof prompt !== 'string') throw bad(`prompt must be a text, got ${shown(prompt)}`);
  if (known === TEXT) {
    if (!isText(target)) throw bad(`target must be a text that is not empty, got ${shown(target)}`);
    if (stop !== undefined && !(Array.isArray(stop) && stop.every(isText)))
      throw bad(`stop must be a list of texts that are not empty, got ${shown(stop)}`, '"stop": ["\\n"]');
    const within = (stop ?? []).find((end) => target.includes(end));
    if (within !== undefined) throw bad(`target holds ${shown(within)}, which is in stop, so it is never written`);
    return { prompt, target, ...(stop && { stop }) };
  }
  if (!Array.isArray(choices) || choices.length < 2 || !choices.every(isText))
    throw bad(`choices must be a list of at least 2 texts that are not empty, got ${shown(choices)}`);
  if (!Number.isInteger(answer) || (answer as number) < 0 || (answer as number) >= choices.length)
    throw bad(`answer must be a whole number from 0 to ${choices.length - 1}, got ${shown(answer)}`);
  return { prompt, choices, answer: answer as number };
}

const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';
