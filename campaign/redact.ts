// What the campaign writes names no place of the machine that it ran on, so that a report can be handed on. In: text;
// out: the same with folders left out of paths.
import { homedir, hostname, userInfo } from 'node:os';

const PATH = /(?<![\w.])(?:file:\/\/)?(?:\/[\w.@+~-]+)+\/([\w.@+~-]*)/g;

/** `/home/me/runs/a/events.jsonl` is `events.jsonl`; names of the user and the host are left out, too. */
export function redact(text: string): string {
  const own = [homedir(), hostname(), userInfo().username].filter((name) => name.length > 3);
  const bare = text.replace(PATH, (_, last: string) => last || 'FOLDER');
  return own.reduce((all, name) => all.replaceAll(name, '...'), bare);
}
