// The suite on the page's own thread: the test calls `describe` and `check`.
import { check, describe } from './conformance.ts';

Object.assign(globalThis, { describe, check });
