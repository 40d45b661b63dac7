// Text as bytes, to train and measure language models. In: strings or bytes (text-files.ts: files, folders, globs);
// out: batches of windows, 256 symbols. The last tenth of each file is for validation, the rest for training; neither
// sees a byte of the other.
import { UserError } from '../base/errors.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { aFunction, anObject, aNumber, aWhole, needed } from '../base/kinds.ts';
import type { Batch } from '../base/tensor.ts';
import { withoutMark } from '../io/encoding.ts';
import { ordered, shuffled, wholeNumber, type Samples } from './batches.ts';
import {
  BATCH_KEYS,
  PASS_KEYS,
  type Batches,
  type BatchOptions,
  type Dataset,
  type PassOptions,
  type Split,
} from './dataset.ts';
import { fingerprintOf } from './fingerprint.ts';
import type { Skipped } from './left-out.ts';
import { windowCount, windowSamples } from './windows.ts';

export interface TextOptions {
  /**
   * The fraction of each file's bytes that is held out, from its end: bytes floor((1 - f) * size) and on. 0.1 by
   * default.
   */
  readonly split?: { readonly validation: number };
  /**
   * Gets one line about files that were left out, and one about text that is in no window. By default lines go to
   * stderr.
   */
  readonly say?: (line: string) => void;
}
export interface TextBatchOptions extends BatchOptions {
  readonly context: number; // number of bytes that a window predicts
}
export interface TextPassOptions extends PassOptions {
  readonly context: number;
}
const KEYS: KeysOf<TextOptions> = { split: anObject, say: aFunction };
const SPLIT_KEYS: KeysOf<NonNullable<TextOptions['split']>> = { validation: needed(aNumber) };
const BATCHES: KeysOf<TextBatchOptions> = { ...BATCH_KEYS, context: needed(aWhole(1)) };
const PASS: KeysOf<TextPassOptions> = { ...PASS_KEYS, context: needed(aWhole(1)) };

export interface TextInfo {
  readonly files: readonly { readonly path: string; readonly bytes: number }[]; // in order
  readonly bytes: number;
  readonly trainBytes: number;
  readonly validationBytes: number;
  readonly skipped: readonly Skipped[];
}

/** How a context length divides the text. */
export interface TextCounts {
  readonly train: number; // windows
  readonly validation: number;
  // files without any window to train on: their training part has no more than `context` bytes
  readonly shortFiles: number;
  readonly unusedBytes: number; // bytes of both splits that are in no window
}

/**
 * A dataset of text in memory: strings (as UTF-8) or bytes, each treated as a separate file. For files on disk use
 * `text` of dynamoe/data.
 */
export function textFrom(
  parts: string | Uint8Array | readonly (string | Uint8Array)[],
  options: TextOptions = {},
): TextDataset {
  const list = typeof parts === 'string' || parts instanceof Uint8Array ? [parts] : parts;
  const files = list.map((part, i): TextFile => ({
    path: `text ${i + 1}`,
    bytes: typeof part === 'string' ? new TextEncoder().encode(part) : part,
  }));
  return new TextDataset('memory', () => Promise.resolve({ files, skipped: [], leftOut: '' }), options);
}

export interface TextFile {
  readonly path: string;
  readonly bytes: Uint8Array;
}
export interface TextFiles {
  readonly files: readonly TextFile[];
  readonly skipped: readonly Skipped[];
  /** What was left out, in words; '' for nothing. */
  readonly leftOut: string;
}

const REPORTED_SHARE = 0.05; // if more than this share of the bytes is in no window, a line says so

interface Loaded {
  readonly info: TextInfo;
  readonly files: readonly TextFile[];
  readonly cuts: readonly number[];
}

export class TextDataset implements Dataset<TextBatchOptions, TextPassOptions> {
  /** Symbols: a byte is one of 256. */
  readonly vocab = 256;
  readonly #where: string;
  readonly #read: () => Promise<TextFiles>;
  readonly #validation: number;
  readonly #say: (line: string) => void;
  readonly #samples = new Map<string, Promise<Samples>>();
  #loaded: Promise<Loaded> | undefined;

  /** `where`: the name of the text in errors. `read` is called once, when the text is first needed. */
  constructor(where: string, read: () => Promise<TextFiles>, options: TextOptions) {
    checkOptions('text', options, KEYS);
    const { split, say = console.warn } = options;
    if (split !== undefined) checkOptions('text: split', split, SPLIT_KEYS);
    this.#where = where;
    this.#read = read;
    this.#validation = split?.validation ?? 0.1;
    this.#say = say;
    if (!(this.#validation >= 0 && this.#validation <= 1)) {
      throw new UserError(
        `text: split.validation must lie in 0..1, got ${this.#validation}`,
        'it is the fraction of each file that is held out',
      );
    }
  }

  /**
   * Shuffled windows: x int32 [size, context] bytes, y int32 [size, context] the byte after each, ids int32 [size]. A
   * window keeps its id for the same files and context. Rejects with a UserError where there is no window.
   */
  batches(options: TextBatchOptions): Batches {
    checkOptions('batches', options, BATCHES);
    wholeNumber('batches', 'context', options.context, 1);
    return shuffled(() => this.#windows(options.split ?? 'train', options.context), options);
  }

  /**
   * All windows of the held-out bytes, files in order of their paths; validation loss is the mean over them. Windows of
   * a file begin every `context` bytes from the first held-out byte. x int32 [n, context], y int32 [n, context]; n is
   * `size`, or less in the last batch. A window that would reach beyond the file's end is left out, so every window has
   * `context` targets and the same weight.
   */
  windows(options: TextPassOptions): AsyncIterable<Batch> {
    checkOptions('windows', options, PASS);
    wholeNumber('windows', 'context', options.context, 1);
    return ordered(() => this.#windows(options.split ?? 'validation', options.context), options);
  }

  pass(options: TextPassOptions): AsyncIterable<Batch> {
    return this.windows(options);
  }

  /** Files, sizes, and what was left out. */
  async info(): Promise<TextInfo> {
    return (await this.#load()).info;
  }

  /**
   * How many windows of `context` bytes there are. Ask this before training: too little data gives an error only when
   * batches are read.
   */
  async counts(context: number): Promise<TextCounts> {
    wholeNumber('counts', 'context', context, 1);
    const { files, cuts } = await this.#load();
    let train = 0,
      validation = 0,
      shortFiles = 0,
      unusedBytes = 0;
    files.forEach(({ bytes }, i) => {
      const windows = windowCount(cuts[i], context),
        held = windowCount(bytes.length - cuts[i], context);
      train += windows;
      validation += held;
      unusedBytes += unusedIn(cuts[i], context) + unusedIn(bytes.length - cuts[i], context);
      if (windows === 0) shortFiles++;
    });
    return { train, validation, shortFiles, unusedBytes };
  }

  /** Depends on the files' bytes, their order and the split, not on where they lie. */
  async fingerprint(): Promise<string> {
    const { files } = await this.#load();
    return fingerprintOf([`text ${this.#validation}`, ...files.flatMap(({ bytes }) => [` ${bytes.length} `, bytes])]);
  }

  #load(): Promise<Loaded> {
    return (this.#loaded ??= this.#read().then((read) => loadedOf(read, this.#where, this.#validation, this.#say)));
  }

  #windows(split: Split, context: number): Promise<Samples> {
    const name = split === 'train' ? 'train' : 'validation',
      key = `${name} ${context}`;
    let samples = this.#samples.get(key);
    if (samples === undefined) {
      samples = this.#load().then((loaded) => windowsOf(loaded, name, context, this.#say));
      this.#samples.set(key, samples);
    }
    return samples;
  }
}

function loadedOf(
  { files: read, skipped, leftOut }: TextFiles,
  where: string,
  validation: number,
  say: (line: string) => void,
): Loaded {
  const files = read.map(({ path, bytes }) => ({ path, bytes: withoutMark(bytes) }));
  if (files.length === 0) {
    const wide = skipped.find(({ reason }) => reason.startsWith('UTF-'));
    throw new UserError(
      `there is no text in ${where}: ${leftOut === '' ? 'no file in it' : `left out ${leftOut}`}`,
      wide ? `convert it to UTF-8: iconv -f ${wide.reason} -t UTF-8` : 'name text files or folders that hold some',
    );
  }
  // If only hidden names were left out, as users expect, no line is needed.
  if (skipped.some(({ reason }) => reason !== 'hidden')) say(`left out ${leftOut}`);
  // 1e-9: rounding may put a whole product just below a whole number, for example (1 - 0.71) * 100.
  const cuts = files.map(({ bytes }) => Math.floor((1 - validation) * bytes.length + 1e-9));
  const sum = (sizes: readonly number[]): number => sizes.reduce((a, b) => a + b, 0);
  const bytes = sum(files.map((f) => f.bytes.length)),
    trainBytes = sum(cuts);
  const info = {
    files: files.map((f) => ({ path: f.path, bytes: f.bytes.length })),
    bytes,
    trainBytes,
    validationBytes: bytes - trainBytes,
    skipped,
  };
  return { info, files, cuts };
}

/** Bytes of a part that are in no window. */
function unusedIn(bytes: number, context: number): number {
  const windows = windowCount(bytes, context);
  return windows === 0 ? bytes : bytes - (windows * context + 1);
}

function windowsOf(
  { files, cuts }: Loaded,
  split: 'train' | 'validation',
  context: number,
  say: (line: string) => void,
): Samples {
  const parts = files.map(({ bytes }, i) => (split === 'train' ? bytes.subarray(0, cuts[i]) : bytes.subarray(cuts[i])));
  const samples = windowSamples(parts, context);
  if (samples.count > 0x7fffffff) {
    throw new UserError(
      `the text has ${samples.count} windows, more than an int32 id can name`,
      'use a longer context',
    );
  }
  if (samples.count > 0) {
    const short = parts.filter((part) => windowCount(part.length, context) === 0).length,
      all = parts.reduce((n, part) => n + part.length, 0);
    const unused = parts.reduce((n, part) => n + unusedIn(part.length, context), 0);
    if (short > 0 || unused > REPORTED_SHARE * all) {
      const why =
        short === 0
          ? 'ends of files'
          : `${short} of ${files.length} ` +
            `${files.length === 1 ? 'file is' : 'files are'} too short, the rest are ends of files`;
      say(
        `${split === 'train' ? 'training' : 'validation'}: ${unused} of ${all} bytes are in no window ` +
          `(${context + 1} bytes, not across files): ${why}`,
      );
    }
    return samples;
  }
  const longest = files.reduce((best, _, i) => (parts[i].length > parts[best].length ? i : best), 0);
  const { path, bytes } = files[longest],
    most = parts[longest].length - 1;
  const among = files.length === 1 ? '' : `, the longest of ${files.length} files`;
  throw new UserError(
    `too little text: a window of context ${context} takes ${context + 1} bytes, ` +
      `the ${split} part of ${path} has ${most + 1} of its ${bytes.length} bytes${among}`,
    most >= 1 ? `use a context of at most ${most}, or more text` : 'use more text',
  );
}
