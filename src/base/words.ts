// Text for people: lists of which only the first names are shown, and words as a shell takes them.

/** "a, b, c and 5 more": the first `most` names of a list, and the number of the others. */
export function listed(names: readonly string[], most: number): string {
  const more = names.length - most;
  return `${names.slice(0, most).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}

/**
 * A path as POSIX shells and the flags of this program take it: quoted where needed, and never like a flag. A line
 * break stays a line break.
 */
export function shellWord(path: string): string {
  const own = path.startsWith('-') ? `./${path}` : path;
  return /^[\w./@:+-]+$/.test(own) ? own : `'${own.replaceAll("'", `'\\''`)}'`;
}
