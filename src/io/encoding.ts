// Detects the encodings in which editors write text. In: bytes; out: UTF-8 without a byte order mark, or the name of
// another encoding.

/** The bytes without a leading UTF-8 byte order mark; a view, not a copy. */
export const withoutMark = (bytes: Uint8Array): Uint8Array =>
  bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes;

const LOOKED_AT = 1024; // bytes

/**
 * 'UTF-16' or 'UTF-32' if the bytes begin with its byte order mark, or (UTF-16) if nearly every second byte at the
 * beginning is 0 and the other bytes are not. Otherwise null.
 */
export function wideEncoding(bytes: Uint8Array): 'UTF-16' | 'UTF-32' | null {
  const [a, b, c, d] = bytes;
  if ((a === 0xff && b === 0xfe && c === 0 && d === 0) || (a === 0 && b === 0 && c === 0xfe && d === 0xff))
    return 'UTF-32';
  if ((a === 0xff && b === 0xfe) || (a === 0xfe && b === 0xff)) return 'UTF-16';
  const pairs = Math.min(bytes.length, LOOKED_AT) >> 1,
    zeros = [0, 0];
  for (let i = 0; i < 2 * pairs; i++) if (bytes[i] === 0) zeros[i % 2]++;
  return pairs >= 2 && Math.max(...zeros) > 0.9 * pairs && Math.min(...zeros) === 0 ? 'UTF-16' : null;
}
