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
  const lanes = [0x9e3779b9, 0x85ebca6b, 0xc2b2ae35, 0x27d4eb2f];
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    for (let l = 0; l < 4; l++) {
      lanes[l] = Math.imul(lanes[l] ^ (c + l * 0x9e37), 0x01000193 + l * 0x1a2);
      lanes[l] = (lanes[l] << (5 + l)) | (lanes[l] >>> (27 - l));
    }
  }
  return lanes.map((h) => {
    h ^= h >>> 16; h = Math.imul(h, 0x85ebca6b); h ^= h >>> 13; h = Math.imul(h, 0xc2b2ae35); h ^= h >>> 16;
    return (h >>> 0).toString(16).padStart(8, '0');
  }).join('');
}
