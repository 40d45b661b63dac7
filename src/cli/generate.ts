// dynamoe generate
import type { Command } from 'commander';
import {
  generate,
  generateLogprobs,
  type GenerateOptions,
  type LogprobOptions,
  type TokenLogprob,
} from '../session/generate.ts';
import type { Session } from '../session/session.ts';
import { RunRanks } from '../train/ranks.ts';
import { openCheckpoint } from '../train/open.ts';
import { device, MAX_SEED, real, recompile, several, share, threads, whole, type OpenFlags } from './flags.ts';
import { refuseFlags } from './check-flags.ts';
import { Exit } from './fail.ts';
import { overRanks } from './ranks.ts';
import { recompiled } from './report.ts';
import { stoppable } from './stop.ts';

interface GenerateFlags extends OpenFlags {
  readonly prompt: string;
  readonly tokens: number;
  readonly temperature: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly stop?: readonly string[];
  readonly logprobs?: number;
  readonly seed: number;
  readonly echo: boolean;
}

export function defineGenerate(command: Command): void {
  command
    .argument('<checkpoint>', 'a checkpoint, or a run folder (its newest checkpoint)')
    .description('Continues a prompt and streams the text.')
    .option('--prompt <text>', 'the text to continue', '')
    .option('--tokens <n>', 'bytes to write', whole(0), 200)
    .option('--temperature <t>', 'randomness of the choices; 0: always the most probable byte', real(0), 0.8)
    .option('--top-k <k>', 'choose among the k most probable bytes only', whole(1))
    .option('--top-p <p>', 'choose among the fewest bytes that together have this probability', share(0, true))
    .option('--min-p <p>', 'choose no byte with less than this share of the largest probability', share(0))
    .option('--repetition-penalty <r>', 'make bytes that were there less probable (1.1 to 1.3)', real(0, true))
    .option('--stop <text>', 'end before this text (may be given several times)', several)
    .option('--logprobs <n>', 'print each byte as a line of JSON, with the n most probable in its place', whole(0))
    .option('--seed <n>', 'random seed of the choices', whole(0, MAX_SEED), 0)
    .option('--no-echo', 'omit the prompt from the output')
    .option('--config <file>', 'the config file that built the model, if it was moved')
    .addOption(device())
    .addOption(threads())
    .addOption(recompile('auto'))
    .action((checkpoint: string, flags: GenerateFlags) =>
      overRanks(async (ranks) => {
        const certain = flags.temperature === 0 && 'at temperature 0 the most probable byte is always taken';
        refuseFlags(command, {
          topK: certain,
          topP: certain,
          minP: certain,
          seed: certain,
          echo:
            (flags.prompt === '' && 'there is no prompt to omit') ||
            (flags.logprobs !== undefined && 'with --logprobs the prompt is not printed'),
        });
        const say = (line: string): void => {
          if (!ranks || ranks.rank === 0) process.stderr.write(`dynamoe: ${line}\n`);
        };
        const decisions: string[] = []; // printed after the text
        const { session } = await openCheckpoint(checkpoint, {
          ...flags,
          ranks,
          say,
          events: (event) => {
            decisions.push(recompiled(event));
          },
        });
        try {
          const { code } = await stoppable(
            (stop) => writeText(session, flags, new RunRanks(ranks, stop)),
            () => undefined,
          );
          decisions.forEach(say);
          if (code !== null) throw new Exit(code);
        } finally {
          await session.close();
        }
      }),
    );
}

/** A flag that was not given is undefined. */
type Unset<T> = { readonly [K in keyof T]: T[K] | undefined };

export interface TextOptions extends Unset<Omit<LogprobOptions, 'tokens'>> {
  readonly prompt: string;
  readonly tokens: number;
  readonly echo?: boolean | undefined;
}

/**
 * Generates text and writes it to stdout at once (on rank 0), each character when all its bytes are there. With
 * `logprobs`, each byte is a line of JSON instead.
 */
export async function writeText(
  session: Session,
  { prompt, echo = true, logprobs, ...options }: TextOptions,
  together = new RunRanks(null),
): Promise<void> {
  const bytes = new TextEncoder().encode(prompt),
    put = (text: string): void => {
      if (text && together.leads) process.stdout.write(text);
    },
    own = optionsOf(options);
  if (logprobs !== undefined) {
    for await (const token of generateLogprobs(session, bytes, { ...own, logprobs })) {
      put(`${JSON.stringify(shownToken(token))}\n`);
      if (together.asksToStop()) break;
    }
    return;
  }
  const decoder = new TextDecoder('utf-8');
  if (echo) put(visible(prompt));
  let made = 0,
    others = 0;
  for await (const token of generate(session, bytes, own)) {
    made++;
    if (token > 255) others++;
    put(visible(token > 255 ? `${decoder.decode()}\ufffd` : decoder.decode(Uint8Array.of(token), { stream: true })));
    if (together.asksToStop()) break;
  }
  put(visible(decoder.decode()));
  if (!together.leads) return;
  process.stdout.write('\n');
  if (others > 0)
    process.stderr.write(
      `dynamoe: ${others} of ${made} tokens are above 255, so they are not bytes of text, and are shown as \ufffd\n`,
    );
}

/** The options that were given. At temperature 0 nothing is drawn, so there is no seed. */
function optionsOf({
  tokens,
  temperature,
  topK,
  topP,
  minP,
  repetitionPenalty,
  stop,
  seed,
}: Omit<TextOptions, 'prompt'>): GenerateOptions {
  const given = { temperature, topK, topP, minP, repetitionPenalty, stop, ...(temperature !== 0 && { seed }) };
  return {
    tokens,
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
  };
}

/** A byte as an event: `text` is the character, if it is one of ASCII. */
function shownToken({ token, logprob, top }: TokenLogprob): object {
  const one = (t: { readonly token: number; readonly logprob: number }): object => ({
    token: t.token,
    ...(t.token < 128 && { text: String.fromCharCode(t.token) }),
    logprob: t.logprob,
  });
  return { event: 'token', ...one({ token, logprob }), top: top.map(one) };
}

/** Replaces control characters, so that generated text cannot control the terminal. */
function visible(text: string): string {
  return process.stdout.isTTY ? text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, '\ufffd') : text;
}
