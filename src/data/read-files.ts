// The bytes of text files. In: paths; out: each text file's bytes, in order, and which files were left out and why.
// A file is binary if a zero byte lies in its first 8 KiB (git's rule): a large binary file is not read to its end.
import { open, type FileHandle } from 'node:fs/promises';
import { UserError } from '../base/errors.ts';
import { fault } from '../io/fault.ts';
import type { Skipped, TextFile, TextFiles } from './text.ts';

const HEAD = 8192; // a zero byte in here makes a file binary
const SMALL = 65536; // read at once
const MAX_BYTES = 2 ** 31 - 1;
const AT_ONCE = 16; // files open at the same time

/** Reads the files. Rejects with a UserError for one that cannot be read or is over 2 GiB. */
export async function readTextFiles(paths: readonly string[]): Promise<TextFiles> {
  const read = new Array<Uint8Array | Skipped['reason']>(paths.length);
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < paths.length) {
      const i = next++;
      read[i] = await readText(paths[i]).catch((error: unknown) => {
        next = paths.length; // the others stop too
        throw fault('read', paths[i], error);
      });
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, paths.length) }, work));
  const files: TextFile[] = [], skipped: Skipped[] = [];
  read.forEach((bytes, i) => {
    if (typeof bytes === 'string') skipped.push({ path: paths[i], reason: bytes });
    else files.push({ path: paths[i], bytes });
  });
  return { files, skipped };
}

async function readText(path: string): Promise<Uint8Array | Skipped['reason']> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    if (size === 0) return 'empty';
    if (size > MAX_BYTES) {
      throw new UserError(`${path} has ${size} bytes; a text file may have at most ${MAX_BYTES}`,
        'split it (split -b 1G) and name the parts');
    }
    let bytes = new Uint8Array(Math.min(size, SMALL));
    let end = await fill(file, bytes, 0);
    if (bytes.subarray(0, HEAD).includes(0)) return 'binary';
    if (size > SMALL) {
      const head = bytes;
      bytes = new Uint8Array(size);
      bytes.set(head);
      end = await fill(file, bytes, end);
    }
    return bytes.subarray(0, end); // shorter if someone cut it meanwhile
  } finally {
    await file.close();
  }
}

/** Reads a file from byte `at` into the same place of `bytes`; gives where it stopped: at the end of `bytes` or of the file. */
async function fill(file: FileHandle, bytes: Uint8Array, at: number): Promise<number> {
  while (at < bytes.length) {
    const { bytesRead } = await file.read(bytes, at, bytes.length - at, at);
    if (bytesRead === 0) break;
    at += bytesRead;
  }
  return at;
}
