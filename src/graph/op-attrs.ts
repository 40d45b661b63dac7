// The names of ops with their attributes; calls of `emit` are checked with this table. Each op's file adds its own line
// (`declare module`). The types cannot be derived from the ops, because the gradient of an op emits other ops, whose
// gradients may emit this op.

/** @public Files of ops use it within `declare module`. */
export type NoAttrs = Readonly<Record<string, never>>;

// eslint-disable-next-line @typescript-eslint/no-empty-object-type -- files of ops add to it
export interface OpAttrs {}

export type OpName = keyof OpAttrs;

/** The `attrs` argument of an op; it may be omitted if all attributes are optional. */
export type AttrsOf<N extends OpName> =
  Record<never, never> extends OpAttrs[N] ? [attrs?: OpAttrs[N]] : [attrs: OpAttrs[N]];
