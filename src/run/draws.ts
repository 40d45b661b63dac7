// Initial values that a device draws: a table of steps that fills states with the normal numbers of random streams.
import { bytesPer } from '../base/dtype.ts';
import { hash32 } from '../base/hash.ts';
import { elements } from '../base/shape.ts';
import { TABLES } from '../base/trig.ts';
import type { Bound, BoundStep, Device, Memory, Place } from '../device/device.ts';
import { NORMALS, normalsInts } from '../device/normals.ts';
import type { Drawn } from './executor.ts';
import type { State } from './state-memory.ts';

/** The table, and the memory of the generator's tables, to be freed with it. */
export function bindDraws(
  device: Device,
  stateOf: (name: string) => State,
  states: readonly Drawn[],
  seed: number,
): { readonly bound: Bound; readonly tables: Memory } {
  const tables = device.alloc(TABLES.byteLength),
    read: Place = { memory: tables, offset: 0 };
  try {
    device.write(read, TABLES);
    const steps = states.flatMap(({ name, std, runs }) => {
      const { type, memory } = stateOf(name),
        own = runs ?? [{ at: 0, from: 0, count: elements(type.shape) }];
      return own.map(({ at, from, count }): BoundStep => ({
        kernel: NORMALS.key,
        buffers: [{ memory, offset: at * bytesPer(type.dtype) }, read],
        ints: normalsInts(count, seed, hash32(name), std, type.dtype, from),
        barrier: false,
        unless: null,
      }));
    });
    return { bound: device.bind(steps), tables };
  } catch (error) {
    device.free(tables);
    throw error;
  }
}
