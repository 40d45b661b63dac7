// Caches of limited size: the entry that was not used for the longest time is dropped first.

/** Puts `value` at the newest end of a map, and drops all but the `most` newest entries; gives the value. */
export function keepRecent<V>(map: Map<string, V>, key: string, value: V, most: number): V {
  map.delete(key);
  map.set(key, value);
  if (map.size > most)
    for (const old of map.keys()) {
      map.delete(old);
      if (map.size <= most) break;
    }
  return value;
}
