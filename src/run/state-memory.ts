// States in device memory. The host reads and writes logical values, element after element in rows; here they are
// converted to and from the layout of the state.
import { hostArray, type TypedArray } from '../base/dtype.ts';
import { byteSize, elements, type TensorType } from '../base/shape.ts';
import type { Device, Memory } from '../device/device.ts';
import type { Panels, Reading } from '../graph/limits.ts';
import type { Layout } from '../graph/state.ts';

export interface State {
  readonly type: TensorType;
  readonly layout: Layout;
  readonly memory: Memory;
}

/** A state whose elements are all 0. */
export const newState = (device: Device, type: TensorType): State => ({
  type,
  layout: 'rows',
  memory: device.alloc(byteSize(type)),
});

/** Only devices that have panels have states in panels. */
const panelsOf = (device: Device): Panels => device.target.limits.panels as Panels;

/** Replaces the elements from `from` on. */
export function write(device: Device, { type, layout, memory }: State, from: number, value: TypedArray): void {
  const parts = layout === 'rows' ? [{ at: from, data: value }] : panelsOf(device).writes(type, from, value);
  for (const { at, data } of parts) device.write({ memory, offset: at * data.BYTES_PER_ELEMENT }, data);
}

/** What to read of the memory of a state for `count` of its elements. */
export function reading(device: Device, { type, layout }: State, at: number, count: number): Reading {
  if (layout !== 'rows') return panelsOf(device).reading(type, at, count);
  const into = hostArray(type.dtype, count);
  return { at, into, value: () => into };
}

/** Elements of a state, at once, where the host sees the device's memory. */
export function peek(device: Device, state: State, at: number, count: number): TypedArray {
  const read = reading(device, state, at, count);
  state.memory.peek?.(read.at * read.into.BYTES_PER_ELEMENT, read.into);
  return read.value();
}

/**
 * The state in another layout, in the same memory if both layouts take as much. The host converts it, matrix by matrix.
 * Null if the device does not have this layout.
 */
export function arranged(device: Device, old: State, layout: Layout): State | null {
  const { type, memory } = old,
    { panels } = device.target.limits;
  if (!panels || !memory.peek || (layout !== 'rows' && layout !== 'panels')) return null;
  const [inRows, inPanels] = [byteSize(type), panels.bytes(type)],
    bytes = layout === 'rows' ? inRows : inPanels,
    state = { type, layout, memory: inRows === inPanels ? memory : device.alloc(bytes) },
    size = elements(type.shape.slice(-2));
  for (let at = 0; at < elements(type.shape); at += size) write(device, state, at, peek(device, old, at, size));
  return state;
}
