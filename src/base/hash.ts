// Small, fast, stable hashes of text: for module paths (random streams) and structural keys. Not cryptographic.

/** FNV-1a, 32 bits. */
export function hash32(text: string, seed = 0x811c9dc5): number {
  let h = seed >>> 0;
  for (let i = 0; i < text.length; i++) {
    h ^= text.charCodeAt(i);
    h = Math.imul(h, 0x01000193);
  }
  return h >>> 0;
}

/** 128 bits as 32 hex digits: four differently seeded and finalised lanes over the text. Used as a content key. */
export function hashHex(text: string): string {
  // Variables rather than an array, for speed: the kernels of a plan have some megabytes of text.
  let a = 0x9e3779b9 | 0,
    b = 0x85ebca6b | 0,
    c = 0xc2b2ae35 | 0,
    d = 0x27d4eb2f;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    a = Math.imul(a ^ char, 0x01000193);
    a = (a << 5) | (a >>> 27);
    b = Math.imul(b ^ (char + 0x9e37), 0x01000193 + 0x1a2);
    b = (b << 6) | (b >>> 26);
    c = Math.imul(c ^ (char + 2 * 0x9e37), 0x01000193 + 2 * 0x1a2);
    c = (c << 7) | (c >>> 25);
    d = Math.imul(d ^ (char + 3 * 0x9e37), 0x01000193 + 3 * 0x1a2);
    d = (d << 8) | (d >>> 24);
  }
  return [a, b, c, d]
    .map((h) => {
      h ^= h >>> 16;
      h = Math.imul(h, 0x85ebca6b);
      h ^= h >>> 13;
      h = Math.imul(h, 0xc2b2ae35);
      h ^= h >>> 16;
      return (h >>> 0).toString(16).padStart(8, '0');
    })
    .join('');
}
