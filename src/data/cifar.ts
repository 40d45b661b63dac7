// CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their binary versions. In: a folder; out: a dataset of x float32 [n, 32,
// 32, 3] and y int32 [n]. A file is records without a header: the labels, one byte each (CIFAR-100: coarse, fine), then
// 3 planes (red, green, blue) of 32 x 32 bytes, row-major.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { aFlag, aText } from '../base/kinds.ts';
import { fault } from '../io/fault.ts';
import { ArrayDataset, type Rows } from './arrays.ts';

export interface CifarOptions {
  /** Pixels as (p / 255 - mean) / deviation of the training images' channels, in place of p / 255. False by default. */
  readonly normalise?: boolean;
}

export interface Cifar100Options extends CifarOptions {
  /** The 100 fine classes (the default) or the 20 coarse ones. */
  readonly labels?: 'fine' | 'coarse';
}

const KEYS: KeysOf<CifarOptions> = { normalise: aFlag };
const KEYS_100: KeysOf<Cifar100Options> = { ...KEYS, labels: aText };
const LABELS: readonly unknown[] = ['fine', 'coarse'];

/**
 * A file format. classes: the number of classes of each label of a record; targetLabel: the index of the label that
 * becomes y; mean and deviation: of the channels red, green, blue.
 */
interface Format {
  readonly name: string;
  readonly archive: string;
  readonly train: readonly string[];
  readonly test: string;
  readonly classes: readonly number[];
  readonly targetLabel: number;
  readonly mean: readonly number[];
  readonly deviation: readonly number[];
}

const SIDE = 32,
  PLANE = SIDE * SIDE,
  IMAGE = 3 * PLANE; // bytes

const CIFAR10: Format = {
  name: 'CIFAR-10',
  archive: 'cifar-10-binary.tar.gz',
  train: [1, 2, 3, 4, 5].map((n) => `data_batch_${n}.bin`),
  test: 'test_batch.bin',
  classes: [10],
  targetLabel: 0,
  mean: [0.4914, 0.4822, 0.4465],
  deviation: [0.247, 0.2435, 0.2616],
};
const CIFAR100: Format = {
  name: 'CIFAR-100',
  archive: 'cifar-100-binary.tar.gz',
  train: ['train.bin'],
  test: 'test.bin',
  classes: [20, 100],
  targetLabel: 1,
  mean: [0.5071, 0.4865, 0.4409],
  deviation: [0.2673, 0.2564, 0.2762],
};

/**
 * CIFAR-10 from a folder with data_batch_1.bin .. data_batch_5.bin (for training) and test_batch.bin. Nothing is read
 * before it is needed; then a UserError names the file, the offset and what was expected there if one is missing or
 * broken. All images take 740 MB as float32.
 */
export function cifar10(folder: string, options: CifarOptions = {}): ArrayDataset {
  checkOptions('cifar10', options, KEYS);
  return dataset(folder, CIFAR10, options);
}

/** CIFAR-100 from a folder with train.bin and test.bin; the same errors, the same size. */
export function cifar100(folder: string, given: Cifar100Options = {}): ArrayDataset {
  checkOptions('cifar100', given, KEYS_100);
  const { labels = 'fine', ...options } = given;
  if (!LABELS.includes(labels))
    throw new UserError(`cifar100: labels must be one of ${LABELS.join(', ')}, got ${String(labels)}`);
  return dataset(folder, { ...CIFAR100, targetLabel: labels === 'coarse' ? 0 : 1 }, options);
}

function dataset(folder: string, format: Format, { normalise = false }: CifarOptions): ArrayDataset {
  return new ArrayDataset(format.name, async () => {
    const names = await readdir(folder).catch((error: unknown) => {
      throw fault('read', folder, error);
    });
    const wanted = [...format.train, format.test],
      missing = wanted.filter((name) => !names.includes(name));
    if (missing.length > 0) {
      const found = missing.length === wanted.length ? 'no' : 'only some of the',
        verb = missing.length === 1 ? 'is' : 'are';
      throw new UserError(
        `${folder} holds ${found} ${format.name} files: ${missing.join(', ')} ${verb} not there`,
        `unpack ${format.archive} and name the folder that holds ${wanted[0]}`,
      );
    }
    const [train, test] = [format.train, [format.test]].map((files) => files.map((name) => join(folder, name)));
    return { train: await readAll(train, format, normalise), test: await readAll(test, format, normalise) };
  });
}

async function readAll(paths: readonly string[], format: Format, normalise: boolean): Promise<Rows> {
  const size = format.classes.length + IMAGE;
  const files = await Promise.all(
    paths.map(async (path) =>
      checked(
        path,
        await readFile(path).catch((error: unknown) => {
          throw fault('read', path, error);
        }),
        format,
      ),
    ),
  );
  const count = files.reduce((n, bytes) => n + bytes.length / size, 0);
  const x = new Float32Array(count * IMAGE),
    y = new Int32Array(count);
  const values = [0, 1, 2].map((c) =>
    Float32Array.from({ length: 256 }, (_, p) =>
      normalise ? (p / 255 - format.mean[c]) / format.deviation[c] : p / 255,
    ),
  );
  let row = 0;
  for (const bytes of files)
    for (let at = 0; at < bytes.length; at += size, row++) {
      y[row] = bytes[at + format.targetLabel];
      const pixels = at + format.classes.length;
      for (let c = 0; c < 3; c++)
        for (let p = 0; p < PLANE; p++) x[row * IMAGE + p * 3 + c] = values[c][bytes[pixels + c * PLANE + p]];
    }
  return {
    x: { dtype: 'float32', shape: [count, SIDE, SIDE, 3], data: x },
    y: { dtype: 'int32', shape: [count], data: y },
  };
}

/** Whole records with labels that exist. */
function checked(path: string, bytes: Uint8Array, { name, classes }: Format): Uint8Array {
  const size = classes.length + IMAGE,
    left = bytes.length % size;
  const broken = (offset: number, expected: string, found: string): UserError =>
    new UserError(
      `${path}: at byte ${offset}, expected ${expected}, found ${found}`,
      `check that it is a complete file of the binary version of ${name}`,
    );
  if (bytes.length === 0) throw broken(0, `records of ${size} bytes`, 'an empty file');
  if (left > 0)
    throw broken(
      bytes.length - left,
      `a record of ${size} bytes (${classes.length} of labels, ${IMAGE} of pixels)`,
      `the file's last ${left}`,
    );
  for (let at = 0; at < bytes.length; at += size)
    classes.forEach((n, i) => {
      if (bytes[at + i] >= n)
        throw broken(at + i, `a label from 0 to ${n - 1} (record ${at / size})`, `${bytes[at + i]}`);
    });
  return bytes;
}
