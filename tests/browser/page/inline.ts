// The suite in the page's own thread: `describe` and `check` for the test to call.
import { check, describe } from './conformance.ts';

Object.assign(globalThis, { describe, check });
