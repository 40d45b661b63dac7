// The dashboard's server: one page about runs, for this machine only. In: run folders; out: a URL, until it is closed.
// It reads only the logs of the runs.
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { EVENTS } from '../io/run-folder.ts';
import { codeOf } from '../io/fault.ts';
import { asset } from './assets.ts';
import { Metrics } from './metrics.ts';
import { streamRuns } from './stream.ts';

export interface DashOptions {
  /** Run folders, with the names that the page shows. The page waits for logs that do not exist yet. */
  readonly runs: readonly { readonly name: string; readonly folder: string }[];
  /** undefined: 6600, or a free port if 6600 is in use. */
  readonly port?: number | undefined;
  /** Whether the URL contains a random token, without which nothing is served; default true. */
  readonly auth?: boolean;
}

export interface Dash {
  readonly url: string;
  /** Sends the remaining lines to viewers, tells them that the server ends, and closes it. */
  close(): Promise<void>;
}

// Not imported: an import of node:http reads all its exports, and so loads Node's HTTP client, which takes 20 ms.
const { createServer } = process.getBuiltinModule('node:http');

const PORT = 6600;
const LINGER_MS = 1000; // time for viewers to receive the rest when the server closes
/**
 * Names of this machine. A page elsewhere whose name was made to resolve to 127.0.0.1 (DNS rebinding) has another host
 * name.
 */
const HOSTS = new Set(['127.0.0.1', 'localhost', '[::1]']);
const HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri " +
    "'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-store',
  'cross-origin-resource-policy': 'same-origin',
  'cross-origin-opener-policy': 'same-origin',
};

/** Rejects with a UserError if the port is in use. */
export async function openDash({ runs, port, auth = true }: DashOptions): Promise<Dash> {
  const token = auth ? randomBytes(16).toString('base64url') : null,
    ending = new AbortController(),
    streams = new Set<Promise<void>>();
  const paths = runs.map(({ folder }) => join(folder, EVENTS)),
    metrics = new Metrics(runs.map(({ name }, i) => ({ name, path: paths[i] })));
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
    const place = admit(request, token);
    if (typeof place !== 'string') return refuse(response, place.status, place.why, place.location);
    switch (place) {
      case 'events': {
        if (request.method === 'HEAD') return refuse(response, 405, 'events are a stream');
        const stream = streamRuns(response, paths, ending.signal);
        streams.add(stream);
        return stream.finally(() => {
          streams.delete(stream);
        });
      }
      case 'runs':
        return reply(response, 'application/json', JSON.stringify(runs.map(({ name }) => name)));
      case 'metrics':
        return reply(response, 'text/plain; version=0.0.4; charset=utf-8', await metrics.text());
      default: {
        const file = await asset(place);
        return file ? reply(response, file.type, file.body) : refuse(response, 404, 'there is nothing here');
      }
    }
  };
  const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) => {
      if (response.headersSent) response.destroy();
      else refuse(response, 500, error instanceof Error ? error.message : String(error));
    });
  });
  const at = await listen(server, port);
  return {
    url: `http://127.0.0.1:${at}/${token === null ? '' : `${token}/`}`,
    close: async () => {
      ending.abort();
      await Promise.race([
        Promise.allSettled(streams),
        new Promise((resolve) => {
          setTimeout(resolve, LINGER_MS).unref();
        }),
      ]);
      await new Promise<void>((resolve) => {
        server.close(() => {
          resolve();
        });
        server.closeAllConnections();
      });
    },
  };
}

interface Refused {
  readonly status: number;
  readonly why: string;
  readonly location?: string;
}

/** Checks a request: returns the name of what it asks for, or why it is refused. */
function admit({ method, headers, url = '/' }: IncomingMessage, token: string | null): string | Refused {
  if (method !== 'GET' && method !== 'HEAD') return { status: 405, why: 'this page can only be read' };
  if (!HOSTS.has((headers.host ?? '').toLowerCase().replace(/:\d+$/, '')))
    return { status: 403, why: 'this page is for this machine only: open it as 127.0.0.1 or localhost' };
  const [path] = url.split('?'),
    [first, ...rest] = path.slice(1).split('/');
  if (token === null) return path.slice(1);
  if (same(headers.authorization ?? '', `Bearer ${token}`)) return path.slice(1);
  if (!same(first, token)) return { status: 403, why: 'open the URL that was printed: it contains a token' };
  return rest.length === 0 ? { status: 308, why: 'the page is a folder', location: `/${token}/` } : rest.join('/');
}

/** Compares two texts in constant time. */
function same(given: string, right: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(given), digest(right));
}

function reply(response: ServerResponse, type: string, body: string): void {
  response.writeHead(200, { 'content-type': type, 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

function refuse(response: ServerResponse, status: number, why: string, location?: string): void {
  response.writeHead(status, {
    'content-type': 'text/plain; charset=utf-8',
    ...(location !== undefined && { location }),
  });
  response.end(`${why}\n`);
}

/** Starts to listen. Returns the port. */
async function listen(server: Server, port: number | undefined): Promise<number> {
  const on = (p: number): Promise<number> =>
    new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen(p, '127.0.0.1', () => {
        server.off('error', reject);
        resolve((server.address() as AddressInfo).port);
      });
    });
  try {
    return await on(port ?? PORT);
  } catch (error) {
    server.removeAllListeners('error');
    if (port === undefined) return on(0);
    throw new UserError(
      `the dashboard cannot use port ${port}: ` +
        `${codeOf(error) === 'EADDRINUSE' ? 'it is in use' : String(codeOf(error))}`,
      'name another port, or none to use a free one',
      error,
    );
  }
}
