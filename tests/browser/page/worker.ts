// The suite in a worker. In: [number of the call, a function's name, its arguments]; out: [number, result].
import type { Draws } from '../../conformance/draws.ts';
import { check, describe } from './conformance.ts';

self.onmessage = ({
  data: [id, call],
}: MessageEvent<[number, { threads: number } | { name: string; draws: Draws }]>): void => {
  void ('threads' in call ? describe(call.threads) : check(call.name, call.draws)).then((result) => {
    self.postMessage([id, result]);
  });
};
