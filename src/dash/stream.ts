// One viewer of runs: server-sent events, at the viewer's own pace. In: the logs' paths; out: frames
//   event: lines   data: {"run":0,"reset":true}, then a line of the log in each further `data:`
//   event: gone    data: {"run":0,"gone":true}: the log has disappeared; with false, it exists again
//   event: ready   all existing lines have been sent
//   event: bye     the server closes: do not reconnect
// The files are read separately for each viewer, so that a slow viewer needs no buffer and does not delay others.
import type { ServerResponse } from 'node:http';
import { Follower } from './follow.ts';

const LOOK_MS = 250; // interval between two looks at the files, and so the delay of viewers
const BEAT_MS = 15_000; // interval of comments, which detect dead connections

/** Ends when the viewer disconnects, or when `ending` is set and all lines are sent. */
export async function streamRuns(
  response: ServerResponse,
  paths: readonly string[],
  ending: AbortSignal,
): Promise<void> {
  const followers = paths.map((path) => new Follower(path)),
    gone = paths.map(() => false);
  let ready = false,
    beat = performance.now();
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  while (!response.closed) {
    const last = ending.aborted;
    let some = false;
    for (const [run, follower] of followers.entries()) {
      const found = await follower.read();
      if (follower.gone !== gone[run])
        await send(response, `event: gone\ndata: {"run":${run},"gone":${follower.gone}}\n\n`);
      gone[run] = follower.gone;
      if (!found) continue;
      some = true;
      await send(
        response,
        `event: lines\ndata: ` +
          `{"run":${run},"reset":${found.reset}}\n${found.lines.map((line) => `data: ${line}\n`).join('')}\n`,
      );
    }
    if (some) continue;
    if (!ready) await send(response, 'event: ready\ndata:\n\n');
    ready = true;
    if (last) break;
    if (performance.now() - beat > BEAT_MS) {
      await send(response, ':\n\n');
      beat = performance.now();
    }
    await pause(response, ending);
  }
  response.end('event: bye\ndata:\n\n');
}

/** Sends a text; waits if the viewer is slow. */
async function send(response: ServerResponse, text: string): Promise<void> {
  if (response.closed || response.write(text)) return;
  await new Promise<void>((resolve) => {
    const done = (): void => {
      response.off('drain', done).off('close', done);
      resolve();
    };
    response.on('drain', done).on('close', done);
  });
}

/** Waits until the next look at the files, or until the viewer disconnects or the server ends. */
async function pause(response: ServerResponse, ending: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      response.off('close', done);
      ending.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, LOOK_MS);
    response.on('close', done);
    ending.addEventListener('abort', done);
    if (ending.aborted) done();
  });
}
