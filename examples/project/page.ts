// A page for the trained model: it continues what one types. `npm run page` serves it on this machine alone.
// Argument: a checkpoint (default: the newest in runs/).
import { readdir, stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { compile, generate, loss, nn } from 'dynamoe';
import { model } from './config.ts';

/** The checkpoint in runs/ that was written last. */
async function newestCheckpoint(): Promise<string> {
  const files = (await readdir('runs', { recursive: true }).catch(() => [])).filter((f) => f.endsWith('.safetensors')),
    times = await Promise.all(files.map(async (file) => ({ file, time: (await stat(join('runs', file))).mtimeMs })));
  const newest = times.sort((a, b) => b.time - a.time).at(0);
  if (newest === undefined) throw new Error('there is no checkpoint yet: npm start trains a model');
  return join('runs', newest.file);
}

const checkpoint = process.argv.at(2) ?? (await newestCheckpoint()),
  session = await compile(new nn.TransformerLM({ vocab: 256, ...model }), { loss: loss.crossEntropy });
await session.load(checkpoint);

/** The prompt with what the model writes after it: at most 40 bytes, and no more than one line. */
async function continued(prompt: string): Promise<string> {
  const bytes = [...new TextEncoder().encode(prompt)],
    newline = 10;
  for await (const byte of generate(session, Uint8Array.from(bytes), { tokens: 40, temperature: 0, stop: [newline] }))
    bytes.push(byte);
  return new TextDecoder().decode(Uint8Array.from(bytes));
}

const escaped = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c] ?? c);

const page = (prompt: string, text: string): string => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>${escaped(checkpoint)}</title>
<style>
body { font: 1.1rem/1.5 system-ui; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }
input { font: inherit }
</style>
<h1>What the model writes</h1>
<p>Checkpoint: ${escaped(checkpoint)}</p>
<form>
<label>Text to continue <input name="prompt" value="${escaped(prompt)}" required></label>
<button>Continue</button>
</form>
<pre><output>${escaped(text)}</output></pre>
</html>`;

const server = createServer((request, response) => {
  const prompt = new URL(request.url ?? '/', 'http://localhost').searchParams.get('prompt') ?? '';
  (prompt === '' ? Promise.resolve('') : continued(prompt)).then(
    (text) =>
      response
        .setHeader('content-type', 'text/html; charset=utf-8')
        .end(page(prompt === '' ? '12 + 34 = ' : prompt, text)),
    (error: unknown) => response.writeHead(500, { 'content-type': 'text/plain' }).end(String(error)),
  );
});
server.listen(Number(process.env['PORT'] ?? 0), '127.0.0.1', () => {
  const address = server.address();
  console.log(`http://127.0.0.1:${typeof address === 'object' && address ? address.port : ''}/`);
});
