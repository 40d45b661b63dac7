// The bits of a session's states, on any device.
import { createHash } from 'node:crypto';
import type { Session } from '../../src/session/session.ts';

/** A hash of each state's bytes, by its name. */
export async function stateBits(session: Session): Promise<Record<string, string>> {
  const states = session.states(),
    values = await Promise.all(states.map((state) => state.readAsync()));
  return Object.fromEntries(
    states.map(({ name }, i) => {
      const { data } = values[i],
        bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      return [name, createHash('sha256').update(bytes).digest('base64')];
    }),
  );
}
