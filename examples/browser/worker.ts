// The worker of the page: a session lives in it, so that the page stays responsive. Out: messages { step, loss }, then
// { trained } or { failed }.
import { compile } from 'dynamoe/core';
import { train, type Trained } from './train.ts';

export type Message =
  { readonly step: number; readonly loss: number } | { readonly trained: Trained } | { readonly failed: string };
const post = (message: Message): void => {
  self.postMessage(message);
};

// `auto` is WebAssembly here: on two threads where the page is cross-origin isolated, on one elsewhere.
train(compile, { device: 'auto', threads: 2 }, (step, loss) => {
  post({ step, loss });
}).then(
  (trained) => {
    post({ trained });
  },
  (error: unknown) => {
    post({ failed: String(error) });
  },
);
