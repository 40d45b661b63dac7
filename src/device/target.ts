// What the compiler may know of a device: plain data that the device hands out.

/** `kind`: what the schedule of a kernel is made for. */
export interface Target {
  readonly kind: 'cpu';
}
