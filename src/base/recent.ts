// Memories that do not grow with a run: of so many things, the one that was not used longest goes first.

/** Puts `value` at the newest end of a map, which keeps the `most` newest; gives the value. */
export function keepRecent<V>(map: Map<string, V>, key: string, value: V, most: number): V {
  map.delete(key);
  map.set(key, value);
  for (const old of map.keys()) {
    if (map.size <= most) break;
    map.delete(old);
  }
  return value;
}
