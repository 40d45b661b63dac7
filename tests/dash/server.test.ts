// Tests the dashboard's server: which requests are refused, what is served, streams of several viewers, a viewer that
// does not read, closing.
import assert from 'node:assert/strict';
import { rename } from 'node:fs/promises';
import { get, request, type IncomingMessage, type RequestOptions } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import fc from 'fast-check';
import { openDash, type Dash, type DashOptions } from '../../src/dash/server.ts';
import { temporaryFolder } from '../io/folder.ts';
import { doneAt, evalAt, LAYER, linesOf, planAt, recompileAt, runFolder, startAt, steps } from './events.ts';

const began = [startAt(), ...steps(1, 30), planAt(1, 1.5), evalAt(30)];

async function opened(t: TestContext, options: DashOptions): Promise<{ dash: Dash; port: number; prefix: string }> {
  const dash = await openDash(options),
    { port, pathname } = new URL(dash.url);
  t.after(() => dash.close());
  return { dash, port: Number(port), prefix: pathname };
}

interface Answer {
  readonly status: number | undefined;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

/** Sends a request without changes; fetch would set Host and normalise the path. */
function ask(options: RequestOptions): Promise<Answer> {
  return new Promise((resolve, reject) => {
    request({ host: '127.0.0.1', agent: false, ...options }, (answer) => {
      let body = '';
      answer
        .setEncoding('utf8')
        .on('data', (text: string) => {
          body += text;
        })
        .on('end', () => {
          resolve({ status: answer.statusCode, headers: answer.headers, body });
        });
    })
      .on('error', reject)
      .end();
  });
}

/** A viewer: the lines that it has received, and the names of the events. */
function view(
  port: number,
  prefix: string,
): {
  lines: string[];
  events: string[];
  until: (what: () => boolean) => Promise<void>;
  ended: Promise<unknown>;
  leave: () => void;
} {
  const lines: string[] = [],
    events: string[] = [];
  let wake = (): void => undefined,
    text = '';
  const client = get({ host: '127.0.0.1', agent: false, port, path: `${prefix}events` }),
    ended = new Promise((resolve) => {
      client.on('close', resolve);
    });
  client.on('response', (answer) => {
    answer.setEncoding('utf8').on('data', (more: string) => {
      text += more;
      for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
        const [event, ...data] = text.slice(0, end).split('\n');
        text = text.slice(end + 2);
        events.push(event.replace('event: ', ''));
        if (event === 'event: lines') lines.push(...data.slice(1).map((d) => d.slice('data: '.length)));
      }
      wake();
    });
  });
  client.on('error', () => undefined);
  return {
    lines,
    events,
    ended,
    leave: () => {
      client.destroy();
    },
    async until(what) {
      while (!what())
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
    },
  };
}

test('requests without the token, with another host name, or other than reads are refused', async (t) => {
  const { folder } = runFolder(await temporaryFolder(t), 'a', began),
    { dash, port, prefix } = await opened(t, { runs: [{ name: 'a', folder }] });
  assert.match(dash.url, /^http:\/\/127\.0\.0\.1:\d+\/[\w-]{22}\/$/);
  const right = { port, path: prefix };
  assert.equal((await ask(right)).status, 200);
  for (const path of ['/', '/main.js', '/metrics', '/events', `${prefix.slice(0, -2)}/`, '/wrong/', `//${prefix}`])
    assert.equal((await ask({ port, path })).status, 403, path);
  assert.equal(
    (await ask({ port, path: '/metrics', headers: { authorization: `Bearer ${prefix.slice(1, -1)}` } })).status,
    200,
  );
  assert.equal((await ask({ port, path: '/metrics', headers: { authorization: 'Bearer wrong' } })).status, 403);
  for (const host of [
    'evil.example',
    `evil.example:${port}`,
    `127.0.0.1.evil.example:${port}`,
    'localhost.evil.example',
  ])
    assert.equal((await ask({ ...right, headers: { host } })).status, 403, `Host ${host}`);
  for (const host of ['localhost', `localhost:${port}`, '[::1]:9', 'LOCALHOST'])
    assert.equal((await ask({ ...right, headers: { host } })).status, 200, host);
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS'])
    assert.equal((await ask({ ...right, method })).status, 405, method);
  const bare = await ask({ port, path: prefix.slice(0, -1) });
  assert.deepEqual([bare.status, bare.headers.location], [308, prefix]);
});

test('no path leads to files outside of the page', async (t) => {
  const { folder } = runFolder(await temporaryFolder(t), 'a', began),
    { port, prefix } = await opened(t, { runs: [{ name: 'a', folder }] });
  for (const path of [
    '../server.ts',
    '..%2fserver.ts',
    '....//server.ts',
    '%2e%2e/server.ts',
    '/etc/passwd',
    'events.jsonl',
    'run.json',
    'constructor',
    '__proto__',
    'main.js/',
    'page/main.js',
    'index.html\0',
  ]) {
    const { status, body } = await ask({ port, path: `${prefix}${encodeURI(path)}` });
    assert.ok(status === 404 || status === 403, `${path}: ${status} ${body.slice(0, 80)}`);
  }
});

test('every file of the page is served with its type and with headers that keep other sites out', async (t) => {
  const { folder } = runFolder(await temporaryFolder(t), 'a', began),
    { port, prefix } = await opened(t, { runs: [{ name: 'a', folder }] });
  const page = await ask({ port, path: prefix }),
    seen = new Set<string>(),
    open = [...page.body.matchAll(/(?:src|href)="([^"#]+)"/g)].map((m) => m[1]);
  assert.match(String(page.headers['content-security-policy']), /default-src 'none'; script-src 'self'/);
  assert.doesNotMatch(
    page.body,
    /<script(?![^>]*\bsrc=)|\son\w+=|style=|https?:/i,
    'no inline scripts and styles, and nothing from other hosts',
  );
  for (let name = open.pop(); name !== undefined; name = open.pop()) {
    if (seen.has(name)) continue;
    seen.add(name);
    const { status, headers, body } = await ask({ port, path: prefix + name });
    assert.equal(status, 200, name);
    assert.match(
      String(headers['content-type']),
      name.endsWith('.css') ? /^text\/css/ : name.endsWith('.svg') ? /^image\/svg/ : /^text\/javascript/,
    );
    for (const [key, value] of [
      ['x-content-type-options', 'nosniff'],
      ['referrer-policy', 'no-referrer'],
      ['cross-origin-resource-policy', 'same-origin'],
    ])
      assert.equal(headers[key], value);
    if (name !== 'uPlot.js') open.push(...[...body.matchAll(/(?:from|VENDOR =) '\.\/([^']+)'/g)].map((m) => m[1]));
  }
  assert.ok(seen.size > 12 && seen.has('uPlot.js') && seen.has('heat.ts'), [...seen].join(' '));
});

test(
  'every viewer gets the whole log, then new lines; a log that is cut is sent again from its start',
  { timeout: 30_000 },
  async (t) => {
    const run = runFolder(await temporaryFolder(t), 'a', began),
      { port, prefix } = await opened(t, { runs: [{ name: 'a', folder: run.folder }] });
    const one = view(port, prefix);
    await one.until(() => one.events.includes('ready'));
    assert.equal(one.lines.length, began.length);
    view(port, prefix).leave();
    run.add(...steps(31, 40));
    await one.until(() => one.lines.length === began.length + 10);
    const two = view(port, prefix);
    await two.until(() => two.events.includes('ready'));
    assert.deepEqual(two.lines, one.lines);
    assert.equal(`${two.lines.join('\n')}\n`, linesOf([...began, ...steps(31, 40)]));
    const before = two.lines.length;
    run.write([startAt(), ...steps(1, 3)]);
    await two.until(() => two.lines.length === before + 4);
    one.leave();
    two.leave();
  },
);

test(
  'a viewer that does not read does not delay others, and viewers are told when the server closes',
  { timeout: 30_000 },
  async (t) => {
    const run = runFolder(await temporaryFolder(t), 'a', [startAt(), ...steps(1, 20_000)]),
      { dash, port, prefix } = await opened(t, { runs: [{ name: 'a', folder: run.folder }] });
    // This viewer sends a request and then reads nothing: the system's buffers fill, and the server must wait for this
    // viewer only.
    const deaf = connect(port, '127.0.0.1');
    deaf.on('error', () => undefined).write(`GET ${prefix}events HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    deaf.pause();
    const other = view(port, prefix);
    await other.until(() => other.lines.length === 20_001);
    run.add(doneAt(20_000));
    await dash.close();
    await other.ended;
    assert.equal(other.events.at(-1), 'bye');
    assert.equal(other.lines.length, 20_002, 'lines that were added just before the server closed were sent');
    await assert.rejects(ask({ port, path: prefix }), /ECONNREFUSED|socket hang up/);
  },
);

test('a requested port that is in use causes an error; by default another port is used', async (t) => {
  const { folder } = runFolder(await temporaryFolder(t), 'a', began),
    runs = [{ name: 'a', folder }],
    { port } = await opened(t, { runs });
  await assert.rejects(openDash({ runs, port }), new RegExp(`cannot use port ${port}: it is in use`));
  const second = await opened(t, { runs, auth: false });
  assert.notEqual(second.port, port);
  assert.equal(second.prefix, '/');
  assert.equal((await ask({ port: second.port, path: '/metrics' })).status, 200);
});

test('/metrics has the text format of Prometheus and the right values', async (t) => {
  const run = runFolder(await temporaryFolder(t), 'a "b"\\', began),
    { port, prefix } = await opened(t, { runs: [{ name: 'a "b"\\', folder: run.folder }] });
  const scrape = async (): Promise<Map<string, number>> => {
    const { headers, body } = await ask({ port, path: `${prefix}metrics` });
    assert.match(String(headers['content-type']), /^text\/plain; version=0\.0\.4/);
    const types = new Set<string>(),
      samples = new Map<string, number>();
    for (const line of body.trimEnd().split('\n')) {
      const type = /^# TYPE (\w+) (gauge|counter)$/.exec(line);
      if (type) {
        assert.ok(!types.has(type[1]), `${type[1]} twice`);
        types.add(type[1]);
        continue;
      }
      if (/^# HELP \w+ .+$/.test(line)) continue;
      const sample = /^(\w+)\{((?:\w+="(?:[^"\\\n]|\\["\\n])*",?)+)\} (-?[\d.]+(?:e[+-]?\d+)?|NaN|[+-]Inf)$/.exec(line);
      assert.ok(sample && types.has(sample[1]), line);
      assert.ok(!samples.has(`${sample[1]}{${sample[2]}}`), `${line} twice`);
      samples.set(`${sample[1]}{${sample[2]}}`, Number(sample[3]));
    }
    return samples;
  };
  const name = 'run="a \\"b\\"\\\\"',
    first = await scrape();
  assert.equal(first.get(`dynamoe_steps_total{${name}}`), 30);
  assert.equal(first.get(`dynamoe_run_info{${name}}`), 1);
  assert.equal(first.get(`dynamoe_expert_load{${name},layer="${LAYER}",expert="0"}`), 40);
  assert.equal(first.get(`dynamoe_expert_capacity{${name},layer="${LAYER}",expert="0"}`), 24);
  const spilled = Array.from({ length: 30 }, (_, i) => Math.max(0, Math.min(40, 11 + i) - 24)).reduce(
    (a, b) => a + b,
    0,
  );
  assert.equal(first.get(`dynamoe_spilled_total{${name},layer="${LAYER}"}`), spilled);
  run.add(recompileAt(31, true), recompileAt(33, false), ...steps(31, 31), doneAt(31));
  const second = await scrape();
  assert.equal(second.get(`dynamoe_spilled_total{${name},layer="${LAYER}"}`), spilled + 16);
  for (const kept of [true, false])
    assert.equal(second.get(`dynamoe_recompilations_total{${name},rule="adaptCapacity",kept="${kept}"}`), 1);
  assert.equal(second.get(`dynamoe_run_info{${name}}`), 0);
});

test('viewers are told when a log disappears and when it exists again', async (t) => {
  const parent = await temporaryFolder(t),
    { folder } = runFolder(parent, 'a', began),
    { dash, port, prefix } = await opened(t, { runs: [{ name: 'a', folder }] });
  const viewer = view(port, prefix),
    metrics = async (): Promise<string> => (await ask({ port, path: `${prefix}metrics` })).body;
  await viewer.until(() => viewer.events.includes('ready'));
  assert.match(await metrics(), /dynamoe_run_info\{run="a"\} 1/);
  await rename(folder, join(parent, 'elsewhere'));
  await viewer.until(() => viewer.events.filter((e) => e === 'gone').length === 1);
  assert.match(await metrics(), /dynamoe_run_info\{run="a"\} 0/);
  await rename(join(parent, 'elsewhere'), folder);
  await viewer.until(() => viewer.events.filter((e) => e === 'gone').length === 2);
  viewer.leave();
  assert.ok(dash.url);
});

test('runs, layers and rules may have any name: what is served can be parsed', async (t) => {
  const parent = await temporaryFolder(t),
    names = fc.string({ unit: 'binary', minLength: 1, maxLength: 12 });
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(names, { minLength: 1, maxLength: 4 }), names, async (runs, rule) => {
      const folders = runs.map((name, i) => ({
        name,
        folder: runFolder(parent, `run ${i}`, [...began, { ...(recompileAt(31, true) as object), rule } as never])
          .folder,
      }));
      const dash = await openDash({ runs: folders }),
        { port, pathname: prefix } = new URL(dash.url);
      try {
        const whole = (text: string): string => text.toWellFormed(); // a part of a character is not valid UTF-8
        assert.deepEqual(JSON.parse((await ask({ port, path: `${prefix}runs` })).body), runs);
        const { body } = await ask({ port, path: `${prefix}metrics` }),
          lines = body.split('\n').filter((line) => line.startsWith('dynamoe_recompilations_total'));
        const read = lines.map((line) => {
          const text = String.raw`"(?:[^"\\\n]|\\["\\n])*"`;
          assert.match(line, new RegExp(`^dynamoe_recompilations_total{run=${text},rule=${text},kept="true"} 1$`));
          return [...line.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)]
            .slice(0, 2)
            .map(([, , value]) => value.replace(/\\(.)/g, (_, c: string) => (c === 'n' ? '\n' : c)));
        });
        assert.deepEqual(
          read,
          runs.map((run) => [whole(run), whole(rule)]),
        );
      } finally {
        await dash.close();
      }
    }),
    { numRuns: 10, seed: 8 },
  );
});
