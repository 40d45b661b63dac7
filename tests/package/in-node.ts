// A program that a user bundles for Node: one step on the device of its first argument. Out: the device, its messages,
// and the loss, as JSON.
import { compile, hostTensor, loss, nn, optim, type DeviceName } from 'dynamoe';
import { text } from 'dynamoe/data';
import { jsonLines } from 'dynamoe/log';
import { adaptCapacity } from 'dynamoe/recompile';

const { argv, stdout } = (
  globalThis as unknown as { process: { argv: string[]; stdout: { write(text: string): void } } }
).process;
const x = hostTensor('float32', [2, 4], [1, 2, 3, 4, 5, 6, 7, 8]),
  y = hostTensor('int32', [2], [0, 1]);

async function main(): Promise<void> {
  const said: string[] = [];
  const session = await compile(new nn.MLP([4, 8, 2]), {
    loss: loss.crossEntropy,
    optimizer: optim.sgd({ lr: 0.1 }),
    seed: 1,
    threads: 2,
    device: argv[2] as DeviceName,
    say: (line: string) => {
      said.push(line);
    },
  });
  const { loss: value } = await session.step({ x, y });
  await session.save('bundled.safetensors');
  await session.load('bundled.safetensors');
  await session.close();
  const doors = [text, jsonLines, adaptCapacity].map((door) => typeof door);
  stdout.write(JSON.stringify({ device: session.executor.description, said, loss: value, doors }));
}
main().catch((error: unknown) => {
  stdout.write(JSON.stringify({ error: String(error) }));
});
