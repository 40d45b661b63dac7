// The names of ops with the attributes that each takes: what `emit` is checked against. Each op's file adds its own line
// (`declare module`), because the types of ops cannot be asked for: an op's gradient emits other ops, and theirs this one.

/** @public Files of ops use it within `declare module`. */
export type NoAttrs = Readonly<Record<string, never>>;

// eslint-disable-next-line @typescript-eslint/no-empty-object-type -- files of ops add to it
export interface OpAttrs {}

export type OpName = keyof OpAttrs;

/** An op whose attributes may all be left out may be emitted without any. */
export type AttrsOf<N extends OpName> =
  Record<never, never> extends OpAttrs[N] ? [attrs?: OpAttrs[N]] : [attrs: OpAttrs[N]];
