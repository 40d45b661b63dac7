// A page that trains: it starts the worker and shows the worker's messages. Bundle page.ts and worker.ts as modules
// beside index.html, for example with `esbuild page.ts worker.ts --bundle --format=esm --target=es2022 --outdir=.`, and
// serve the folder. With the headers `Cross-Origin-Opener-Policy: same-origin` and `Cross-Origin-Embedder-Policy:
// require-corp`, training uses threads.
import type { Message } from './worker.ts';

const show = (line: string): void => {
  document.querySelector('#log')?.append(`${line}\n`);
};
const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
worker.onerror = ({ message }) => {
  show(`failed: ${message}`);
};
worker.onmessage = ({ data }: MessageEvent<Message>) => {
  if ('step' in data) show(`step ${data.step}  loss ${data.loss.toFixed(4)}`);
  else if ('failed' in data) show(`failed: ${data.failed}`);
  else {
    show(`trained on ${data.trained.device}`);
    Object.assign(document.body.dataset, { trained: JSON.stringify(data.trained) });
    worker.terminate();
  }
};
