// Tests which messages of a session are printed and which are events.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { RecompileEvent } from '../../src/recompile/rule.ts';
import { configure } from '../../src/train/configure.ts';
import { openSession } from '../../src/train/open.ts';

const TINY = { layers: 1, dModel: 16, heads: 2, context: 8, experts: 4, dFf: 16, batch: 2 };
const x = { dtype: 'int32', shape: [2, 8], data: Int32Array.from({ length: 16 }, (_, i) => i) } as const;

for (const listens of [true, false]) {
  test(
    `a rule that fails is ` +
      `${listens ? 'reported as an event, and not printed too' : 'printed if nobody listens to events'}`,
    async () => {
      const { experiment } = await configure(undefined, TINY),
        said: string[] = [],
        events: RecompileEvent[] = [];
      const session = await openSession(experiment, {
        device: 'wasm',
        threads: 1,
        say: (line) => {
          said.push(line);
        },
        ...(listens && {
          events: (event: RecompileEvent) => {
            events.push(event);
          },
        }),
      });
      session.recompile({
        name: 'fails',
        cooldown: 0,
        trigger: () => {
          throw new Error('boom');
        },
        alter: () => undefined,
      });
      for (let i = 0; i < 8; i++) await session.step({ x, y: x });
      await session.close();
      assert.deepEqual(
        events.map((e) => [e.rule, /boom/.test(e.error ?? '')]),
        listens
          ? [
              ['fails', true],
              ['fails', true],
              ['fails', true],
            ]
          : [],
      );
      assert.equal(said.length, listens ? 0 : 1, said.join('\n'));
    },
  );
}
