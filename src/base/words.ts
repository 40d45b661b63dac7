// Texts for people: lists that are shown in part, words as a shell takes them. In: names; out: one line.

/** "a, b, c and 5 more": the first `most` of a list, and how many are left out. */
export function listed(names: readonly string[], most: number): string {
  const more = names.length - most;
  return `${names.slice(0, most).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}

/**
 * A path as every POSIX shell and our flags take it: in quotation marks where it needs them, never like a flag. A line
 * break stays one.
 */
export function shellWord(path: string): string {
  const own = path.startsWith('-') ? `./${path}` : path;
  return /^[\w./@:+-]+$/.test(own) ? own : `'${own.replaceAll("'", `'\\''`)}'`;
}
