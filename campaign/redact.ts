// Removes names of folders, users and hosts from the campaign's output, so that a report can be published. In: text.
// Out: the same text with paths shortened to their last part.
import { homedir, hostname, userInfo } from 'node:os';

const PATH = /(?<![\w.])(?:file:\/\/)?(?:\/[\w.@+~-]+)+\/([\w.@+~-]*)/g;

/** `/home/me/runs/a/events.jsonl` becomes `events.jsonl`; names of the user and the host become `...`. */
export function redact(text: string): string {
  const own = [homedir(), hostname(), userInfo().username].filter((name) => name.length > 3);
  const bare = text.replace(PATH, (_, last: string) => last || 'FOLDER');
  return own.reduce((all, name) => all.replaceAll(name, '...'), bare);
}
