// The bytes of text files. In: files; out: each text file's bytes, in order, and which files were left out and why.
// A file is binary if a zero byte lies in its first 8 KiB (git's rule): a large binary file is not read to its end.
import { open, type FileHandle } from 'node:fs/promises';
import { UserError } from '../base/errors.ts';
import { wideEncoding, withoutMark } from '../io/encoding.ts';
import { codeOf, fault, shownPath } from '../io/fault.ts';
import type { Found, Search } from './find-files.ts';
import { leftOutIn, type Skipped } from './left-out.ts';
import type { TextFile, TextFiles } from './text.ts';

const HEAD = 8192; // bytes: a file with a zero byte among its first ones is binary
const SMALL = 65536; // read at once
const MAX_BYTES = 2 ** 31 - 1;
const AT_ONCE = 16; // files open at the same time

/**
 * Reads the files. Rejects with a UserError for a file over 2 GiB, and for one that the user named and that cannot be
 * read. A file that was found in a folder and may not be read is left out.
 */
export async function readTextFiles({ files: found, skipped: before }: Search): Promise<TextFiles> {
  const read = new Array<Uint8Array | Skipped['reason']>(found.length);
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < found.length) {
      const i = next++,
        { path, named } = found[i];
      read[i] = await readText(found[i]).catch((error: unknown) => {
        if (!named && ['EACCES', 'EPERM'].includes(codeOf(error) ?? '')) return 'unreadable' as const;
        next = found.length; // makes the other readers stop
        throw fault('read', path.toString(), error);
      });
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, found.length) }, work));
  const files: TextFile[] = [],
    skipped = [...before];
  read.forEach((bytes, i) => {
    const path = found[i].path.toString();
    if (typeof bytes === 'string') skipped.push({ path, reason: bytes });
    else files.push({ path, bytes });
  });
  return { files, skipped, leftOut: leftOutIn(skipped) };
}

async function readText({ path }: Found): Promise<Uint8Array | Skipped['reason']> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    if (size === 0) return 'empty';
    if (size > MAX_BYTES) {
      throw new UserError(
        `${shownPath(path.toString())} has ${size} bytes; a text file may have at most ${MAX_BYTES}`,
        'split it (split -b 1G) and name the parts',
      );
    }
    let bytes = new Uint8Array(Math.min(size, SMALL));
    let end = await fill(file, bytes, 0);
    const head = bytes.subarray(0, Math.min(HEAD, end)),
      wide = wideEncoding(head);
    if (wide) return wide;
    if (head.includes(0)) return 'binary';
    if (withoutMark(head).length === 0) return 'empty';
    if (size > SMALL) {
      const begin = bytes;
      bytes = new Uint8Array(size);
      bytes.set(begin);
      end = await fill(file, bytes, end);
    }
    return bytes.subarray(0, end); // shorter if the file was truncated meanwhile
  } finally {
    await file.close();
  }
}

/**
 * Reads a file from byte `at` into the same place of `bytes`; gives where it stopped: at the end of `bytes` or of the
 * file.
 */
async function fill(file: FileHandle, bytes: Uint8Array, at: number): Promise<number> {
  while (at < bytes.length) {
    const { bytesRead } = await file.read(bytes, at, bytes.length - at, at);
    if (bytesRead === 0) break;
    at += bytesRead;
  }
  return at;
}
