/**
 * The largest allowed sizes in kB, minified and gzipped, of the core, and of the playground's worker, which has
 * policies and its drawing beside it, as docs/measurements.md and docs/guide/browser.md state them. The goal for the
 * core: 140.
 */
export const CORE_KB = 188,
  WORKER_KB = 190;
