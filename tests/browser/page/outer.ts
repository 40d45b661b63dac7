// The suite in a worker, seen from the page: the test calls `describe` and `check`, which ask the worker.
import type { Draws } from '../../conformance/draws.ts';

const worker = new Worker('/worker.js', { type: 'module' }),
  waiting = new Map<number, (result: string | null) => void>();
let calls = 0;
worker.onmessage = ({ data: [id, result] }: MessageEvent<[number, string | null]>) => {
  waiting.get(id)?.(result);
  waiting.delete(id);
};
worker.onerror = ({ message }) => {
  for (const resolve of waiting.values()) resolve(`the worker failed: ${message}`);
};

const ask = (call: object): Promise<string | null> =>
  new Promise((resolve) => {
    waiting.set(++calls, resolve);
    worker.postMessage([calls, call]);
  });
Object.assign(globalThis, {
  describe: (threads: number) => ask({ threads }),
  check: (name: string, draws: Draws) => ask({ name, draws }),
});
