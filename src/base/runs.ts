// Elements of a tensor that lie together.

/** `count` elements: from element `at` of a part on, and from element `from` of the whole tensor on. */
export interface Run {
  readonly at: number;
  readonly from: number;
  readonly count: number;
}
