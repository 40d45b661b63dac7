/**
 * The largest allowed sizes in kB, minified and gzipped, as docs/measurements.md and docs/guide/browser.md state them:
 * of the core, which a page loads before it can compile and train; of what a page loads when it asks for rules,
 * checkpoints or generation; of the playground's worker, which has all this, policies and its drawing. The goal for the
 * core: 140.
 */
export const CORE_KB = 169,
  LATER_KB = 29,
  WORKER_KB = 196;
