// A fingerprint of data. In: its parts, in order; out: 32 hex digits. Uses SHA-256 of the Web Crypto API, which Node
// and every secure page (https, localhost) have. Each part is hashed, and then the hashes, because the API takes only
// whole arrays.
import { UserError } from '../base/errors.ts';

const PIECE = 64 << 20;

export async function fingerprintOf(parts: Iterable<string | Uint8Array>): Promise<string> {
  const digests: Uint8Array<ArrayBuffer>[] = [];
  for (const part of parts) {
    const bytes = typeof part === 'string' ? new TextEncoder().encode(part) : part;
    for (let at = 0; at === 0 || at < bytes.length; at += PIECE)
      digests.push(await sha256(bytes.subarray(at, at + PIECE)));
  }
  const all = new Uint8Array(32 * digests.length);
  digests.forEach((d, i) => {
    all.set(d, 32 * i);
  });
  return Array.from((await sha256(all)).subarray(0, 16), (b) => b.toString(16).padStart(2, '0')).join('');
}

async function sha256(bytes: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
  // `crypto.subtle` is undefined in pages that are not secure, though its type does not say so.
  const { subtle } = crypto as { readonly subtle?: SubtleCrypto };
  if (!subtle) throw new UserError('fingerprint: this page has no Web Crypto', 'serve it by https or from localhost');
  // `digest` accepts no shared memory.
  const own = bytes.buffer instanceof ArrayBuffer ? (bytes as Uint8Array<ArrayBuffer>) : new Uint8Array(bytes);
  return new Uint8Array(await subtle.digest('SHA-256', own));
}
