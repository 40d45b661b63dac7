// Reads the lines of a file of any size in pieces. In: an open file and an offset; out: the complete lines from there
// that fit into a piece. A carriage return at the end of a line and a byte order mark at the start of the file are
// removed. Bytes that are not UTF-8 become U+FFFD.
import { open, type FileHandle } from 'node:fs/promises';
import { fault } from './fault.ts';

const PIECE = 1 << 18, // bytes that are read at a time
  SKIPPED = 1 << 22; // bytes that are read at a time to skip a line that is too long
const LONGEST = 1 << 26; // bytes; a longer line is read as an empty one, to bound memory

export interface Piece {
  readonly lines: readonly string[];
  /** The file offsets of the ends of the lines, after their line breaks. */
  readonly ends: readonly number[];
  /** The bytes of all lines; of a line that is too long, only the last ones. */
  readonly bytes: Buffer;
}

/** The next lines from offset `from` of a file of `size` bytes; null: no complete line is left. */
export async function nextLines(file: FileHandle, from: number, size: number): Promise<Piece | null> {
  for (let length = PIECE; ; length *= 2) {
    const bytes = await bytesAt(file, from, Math.min(length, size - from)),
      last = bytes.lastIndexOf(10);
    if (last >= 0) return piecesOf(bytes, last, from);
    if (bytes.length < length) return null; // the end of the file
    if (length < LONGEST) continue;
    return endOfLine(file, from + bytes.length, size);
  }
}

function piecesOf(bytes: Buffer, last: number, from: number): Piece {
  const lines: string[] = [],
    ends: number[] = [];
  for (let start = 0; start <= last;) {
    const end = bytes.indexOf(10, start);
    lines.push(textBetween(bytes, start, end, from + start === 0));
    ends.push(from + end + 1);
    start = end + 1;
  }
  return { lines, ends, bytes: bytes.subarray(0, last + 1) };
}

function textBetween(bytes: Buffer, start: number, end: number, first: boolean): string {
  const text = bytes.toString('utf8', start, end > start && bytes[end - 1] === 13 ? end - 1 : end);
  return first && text.startsWith('\uFEFF') ? text.slice(1) : text;
}

/** Skips the rest of a line. */
async function endOfLine(file: FileHandle, from: number, size: number): Promise<Piece | null> {
  for (let at = from; at < size; at += SKIPPED) {
    const bytes = await bytesAt(file, at, Math.min(SKIPPED, size - at)),
      end = bytes.indexOf(10);
    if (end >= 0) return { lines: [''], ends: [at + end + 1], bytes: bytes.subarray(0, end + 1) };
  }
  return null;
}

/** `length` bytes of a file from offset `from`; fewer at its end. */
export async function bytesAt(file: FileHandle, from: number, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.read(bytes, done, length - done, from + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return bytes.subarray(0, done);
}

/**
 * All lines of a file in pieces, including a last line without a line break. Rejects with a UserError if the file
 * cannot be read.
 */
export async function* linesOf(path: string): AsyncGenerator<readonly string[], void, undefined> {
  const refuse = (error: unknown): never => {
    throw fault('read', path, error);
  };
  const file = await open(path, 'r').catch(refuse);
  try {
    const { size } = await file.stat().catch(refuse);
    let at = 0;
    for (
      let piece = await nextLines(file, at, size).catch(refuse);
      piece;
      piece = await nextLines(file, at, size).catch(refuse)
    ) {
      at = piece.ends[piece.ends.length - 1];
      yield piece.lines;
    }
    if (size > at && size - at <= LONGEST) {
      const rest = await bytesAt(file, at, size - at).catch(refuse);
      const text = textBetween(rest, 0, rest.length, at === 0);
      if (text !== '') yield [text];
    }
  } finally {
    await file.close();
  }
}
