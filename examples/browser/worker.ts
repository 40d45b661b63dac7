// The worker of the page: the session runs here, so that the page stays responsive. Out: messages { step, loss }, then
// { trained } or { failed }.
import { compile } from 'dynamoe/whole';
import { train, type Trained } from './train.ts';

export type Message =
  { readonly step: number; readonly loss: number } | { readonly trained: Trained } | { readonly failed: string };
const post = (message: Message): void => {
  self.postMessage(message);
};

// `auto` means WebAssembly here: with two threads if the page is cross-origin isolated, else with one.
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
