/**
 * The largest allowed size of the core, minified and gzipped, in kB: as docs/measurements.md and docs/guide/browser.md
 * state it. The goal is 120.
 */
export const CORE_KB = 164;
