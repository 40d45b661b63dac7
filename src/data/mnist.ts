// MNIST and datasets in its files (Fashion-MNIST, KMNIST). In: a folder, or an images and a labels file, gzipped or
// not; out: a dataset of x float32 [n, pixels] and y int32 [n].
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { aFlag, aName, aWhole, needed } from '../base/kinds.ts';
import type { HostTensor } from '../base/tensor.ts';
import { fault } from '../io/fault.ts';
import { ArrayDataset, splitRows, type Parts, type Rows } from './arrays.ts';
import { idxHeader, readIdx } from './idx.ts';

export interface IdxFiles {
  readonly images: string;
  readonly labels: string;
}

export interface MnistOptions {
  /**
   * How many samples are for training: the first ones. The rest is the test split, unless the folder has test files of
   * its own. By default 4 of 5; all of the training files where there are test files.
   */
  readonly train?: number;
  /** Pixels as (p / 255 - 0.1307) / 0.3081, MNIST's mean 0 and deviation 1, in place of p / 255. False by default. */
  readonly normalise?: boolean;
  /**
   * How many classes there are: labels are from 0 to classes - 1. 10 by default; EMNIST's sets have 26 (counted from 1:
   * 27), 47 or 62.
   */
  readonly classes?: number;
}
const MOST_CLASSES = 256; // a label is a byte
const KEYS: KeysOf<MnistOptions> = { train: aWhole(0), normalise: aFlag, classes: aWhole(1, MOST_CLASSES) };
const FILE_KEYS: KeysOf<IdxFiles> = { images: needed(aName), labels: needed(aName) };

/**
 * Digits. A folder is searched for `train-images-idx3-ubyte`, `t10k-images-idx3-ubyte` and their labels, each with or
 * without `.gz`: the first pair is for training and the second for testing; one pair alone is split by count. Nothing
 * is read before it is needed; then a UserError names the file, the offset and what was expected there if one is
 * missing or broken, or a label is none of the classes.
 */
export function mnist(source: string | IdxFiles, options: MnistOptions = {}): ArrayDataset {
  checkOptions('mnist', options, KEYS);
  if (typeof source !== 'string') checkOptions('mnist: files', source, FILE_KEYS);
  return new ArrayDataset('mnist', () => load(source, options));
}

async function load(
  source: string | IdxFiles,
  { train, normalise = false, classes = 10 }: MnistOptions,
): Promise<Parts> {
  const pairs = typeof source === 'string' ? await findPairs(source) : [source];
  const first = await readPair(pairs[0], normalise, classes);
  const count = first.x.shape[0];
  if (pairs.length === 1) return splitRows(first, train ?? Math.floor(count * 0.8), 'mnist');
  const parts = splitRows(first, train ?? count, 'mnist'),
    test = await readPair(pairs[1], normalise, classes);
  if (test.size !== first.size) {
    throw new UserError(
      `${pairs[0].images} has images of ${first.size} pixels, ${pairs[1].images} of ${test.size}`,
      'the files must be of one set',
    );
  }
  return { train: parts.train, test };
}

async function findPairs(folder: string): Promise<IdxFiles[]> {
  const names = await readdir(folder).catch((error: unknown) => {
    throw fault('read', folder, error);
  });
  const find = (set: string, what: string, rank: number): string | undefined => {
    const plain = names.filter((name) => new RegExp(`^${set}-${what}[-.]idx${rank}-ubyte(\\.gz)?$`).test(name)).sort();
    return plain.length === 0 ? undefined : join(folder, plain[0]);
  };
  const pairs: IdxFiles[] = [];
  for (const set of ['train', 't10k']) {
    const images = find(set, 'images', 3),
      labels = find(set, 'labels', 1);
    if (images !== undefined && labels !== undefined) pairs.push({ images, labels });
    else if (images !== undefined || labels !== undefined) {
      throw new UserError(
        `${folder} has ${images ?? labels} but not its ${images === undefined ? 'images' : 'labels'}`,
        `the other file is ${set}-${images === undefined ? 'images-idx3' : 'labels-idx1'}-ubyte, with or without .gz`,
      );
    }
  }
  if (pairs.length > 0) return pairs;
  throw new UserError(
    `${folder} holds no MNIST files`,
    'they are named train-images-idx3-ubyte, train-labels-idx1-ubyte and t10k-..., with or without .gz',
  );
}

/** size: height x width. */
async function readPair(
  { images, labels }: IdxFiles,
  normalise: boolean,
  classes: number,
): Promise<Rows & { readonly size: string }> {
  const [{ shape, data }, marks] = await Promise.all([readIdx(images, 3), readIdx(labels, 1)]);
  const [count, height, width] = shape;
  if (marks.shape[0] !== count) {
    throw new UserError(
      `${images} has ${count} images but ${labels} has ${marks.shape[0]} labels`,
      'the two files must be of one set',
    );
  }
  if (data.length === 0)
    throw new UserError(
      `${images} holds no pixel: its images are ${shape.join(' x ')}`,
      'check that it is the right file',
    );
  const wrong = marks.data.findIndex((label) => label >= classes);
  if (wrong >= 0) {
    throw new UserError(
      `${labels}: at byte ${idxHeader(1) + wrong}, expected a label from 0 to ${classes - 1} ` +
        `(sample ${wrong}), found ${marks.data[wrong]}`,
      'check that it is the right file; a dataset with more classes needs the option `classes`',
    );
  }
  const [shift, scale] = normalise ? [0.1307, 0.3081] : [0, 1];
  const values = Float32Array.from({ length: 256 }, (_, p) => (p / 255 - shift) / scale);
  const pixels = new Float32Array(data.length);
  for (let i = 0; i < data.length; i++) pixels[i] = values[data[i]];
  const x: HostTensor = { dtype: 'float32', shape: [count, height * width], data: pixels };
  const y: HostTensor = { dtype: 'int32', shape: [count], data: Int32Array.from(marks.data) };
  return { x, y, size: `${height} x ${width}` };
}
