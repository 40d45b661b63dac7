// dynamoe generate
import type { Command } from 'commander';
import { generate, type GenerateOptions } from '../session/generate.ts';
import type { Session } from '../session/session.ts';
import { openCheckpoint } from '../train/open.ts';
import { device, MAX_SEED, real, recompile, threads, whole, type OpenFlags } from './flags.ts';
import { refuseFlags } from './check-flags.ts';
import { Exit } from './fail.ts';
import { recompiled } from './report.ts';
import { stoppable } from './stop.ts';

interface GenerateFlags extends OpenFlags {
  readonly prompt: string;
  readonly tokens: number;
  readonly temperature: number;
  readonly topK?: number;
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
    .option('--seed <n>', 'random seed of the choices', whole(0, MAX_SEED), 0)
    .option('--no-echo', 'omit the prompt from the output')
    .option('--config <file>', 'the config file that built the model, if it was moved')
    .addOption(device())
    .addOption(threads())
    .addOption(recompile('auto'))
    .action(async (checkpoint: string, flags: GenerateFlags) => {
      const certain = flags.temperature === 0 && 'at temperature 0 the most probable byte is always taken';
      refuseFlags(command, { topK: certain, seed: certain, echo: flags.prompt === '' && 'there is no prompt to omit' });
      const say = (line: string): void => {
        process.stderr.write(`dynamoe: ${line}\n`);
      };
      const decisions: string[] = []; // printed after the text
      const { session } = await openCheckpoint(checkpoint, {
        ...flags,
        say,
        events: (event) => {
          decisions.push(recompiled(event));
        },
      });
      try {
        const { code } = await stoppable(
          (stop) => writeText(session, flags, stop),
          () => undefined,
        );
        decisions.forEach(say);
        if (code !== null) throw new Exit(code);
      } finally {
        await session.close();
      }
    });
}

export interface TextOptions extends Omit<GenerateOptions, 'topK'> {
  readonly prompt: string;
  readonly topK?: number | undefined;
  readonly echo?: boolean;
}

/** Generates text and writes it to stdout at once, each character when all its bytes are there. */
export async function writeText(
  session: Session,
  { prompt, echo = true, topK, tokens, temperature = 1, seed }: TextOptions,
  stop?: AbortSignal,
): Promise<void> {
  const decoder = new TextDecoder('utf-8'),
    put = (text: string): void => {
      if (text) process.stdout.write(visible(text));
    };
  if (echo) put(prompt);
  const draws = temperature > 0 && { ...(topK !== undefined && { topK }), ...(seed !== undefined && { seed }) };
  let made = 0,
    others = 0;
  for await (const token of generate(session, new TextEncoder().encode(prompt), { tokens, temperature, ...draws })) {
    made++;
    if (token > 255) others++;
    put(token > 255 ? `${decoder.decode()}\ufffd` : decoder.decode(Uint8Array.of(token), { stream: true }));
    if (stop?.aborted) break;
  }
  put(decoder.decode());
  process.stdout.write('\n');
  if (others > 0)
    process.stderr.write(
      `dynamoe: ${others} of ${made} tokens are above 255, so they are not bytes of text, and are shown as \ufffd\n`,
    );
}

/** Replaces control characters, so that generated text cannot control the terminal. */
function visible(text: string): string {
  return process.stdout.isTTY ? text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, '\ufffd') : text;
}
