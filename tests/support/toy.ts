// Small models and batches for tests, and whether this machine has a C compiler.
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { Stream } from '../../src/base/random.ts';
import { findToolchain } from '../../src/device/native/toolchain.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import type { Session } from '../../src/session/session.ts';
import { peek } from './delayed-device.ts';

/** The reason to skip tests of the native device, or false. */
export const noCompiler: string | false = (await findToolchain().catch(() => null)) ? false : 'no C compiler found';

export const toyLM = (
  options: { dropout?: number; tied?: boolean; experts?: number; heads?: number; kvHeads?: number } = {},
): TransformerLM =>
  new TransformerLM({
    vocab: 17,
    dModel: 16,
    layers: 2,
    heads: options.heads ?? 2,
    ...(options.kvHeads !== undefined && { kvHeads: options.kvHeads }),
    context: 12,
    dropout: options.dropout ?? 0,
    tied: options.tied ?? false,
    moe: { experts: options.experts ?? 4, topK: 2, hidden: 24, capacity: 'dropless' },
  });

/** Random tokens and the tokens after them. */
export function toyBatch(step: number, size = 3, context = 12, vocab = 17): Batch {
  const stream = new Stream(7, 'toy');
  const draw = (shift: number): Int32Array =>
    Int32Array.from({ length: size * context }, (_, i) => Math.floor(stream.uniform(step, i + shift) * vocab));
  return { x: hostTensor('int32', [size, context], draw(0)), y: hostTensor('int32', [size, context], draw(1)) };
}

/** All parameters and moments as bytes: equal strings mean equal bits. */
export function fingerprint(session: Session): Record<string, string> {
  return Object.fromEntries(
    session.states().map(({ name, read }) => {
      const { data } = peek(read);
      return [name, Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64')];
    }),
  );
}
