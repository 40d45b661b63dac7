// The extras as a page gets them: in a file of their own, which is loaded with the first call that needs one of them.
import { loadedBy } from '../base/lazy.ts';
import type { ReadOptions, TensorMap } from '../io/safetensors-bytes.ts';
import type { GenerateOptions, LogprobOptions, TokenLogprob } from './generate.ts';
import type { Session } from './session.ts';

export const LATER = loadedBy(() => import('./extras.ts'));

/**
 * Yields `tokens` tokens that continue the prompt. When the context is full, the second half of it is computed again
 * and generation continues from there. Each call has its own cache, so calls may run at the same time; the cache takes
 * memory from the first token until the generator ends, returns or throws (leaving a `for await` loop returns it).
 * Each token is one call in the session's order, so a training step between two tokens affects the later ones. Throws
 * UserError, at the first token, for invalid options or prompts, and where logits are not finite. MoE layers with
 * `overflow: 'drop'` drop choices among the tokens of one run: 16 tokens of a prompt, then each token alone, for which
 * nothing is dropped.
 */
export async function* generate(
  session: Session,
  prompt: ArrayLike<number>,
  options: GenerateOptions,
): AsyncGenerator<number> {
  yield* (await LATER.load()).generate(session, prompt, options);
}

/**
 * Like `generate`, and gives with each token the logarithm of the model's probability for it, and those of the
 * `logprobs` most probable tokens in its place: of softmax(logits), before temperature, penalty and limits.
 */
export async function* generateLogprobs(
  session: Session,
  prompt: ArrayLike<number>,
  options: LogprobOptions,
): AsyncGenerator<TokenLogprob> {
  yield* (await LATER.load()).generateLogprobs(session, prompt, options);
}

/**
 * The tensors of a safetensors file by name, whichever program wrote it. Types that DynaMoE does not have are
 * converted if no value changes (I64 to int32, for example). Tensors that cannot be converted are named in one line to
 * `say` (default console.warn), and listed in `unreadable`. Rejects with a UserError, with the byte offset, if the
 * file is damaged.
 */
export const readSafetensors = async (bytes: Uint8Array, options: ReadOptions = {}): Promise<TensorMap> =>
  (await LATER.load()).readSafetensors(bytes, options);
