// Files that are damaged or generated. Reading such a file must give an error that names the file, or a correct result:
// no other exception, no hang, and no more memory than a multiple of the file's size. A case is a file of the corpus
// with damage, or a file from a grammar.
import { readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { UserError } from '../../src/base/errors.ts';
import { BrokenPromise, assertPromise, type Part, type AttackContext } from '../part.ts';
import { edits, mutated, type Edit } from '../support/mutate.ts';
import { grammar, type Made } from '../support/grammar.ts';
import { targets, type TargetName } from '../support/targets.ts';

interface Case {
  readonly target: TargetName;
  readonly edits: readonly Edit[];
  /** Edits of the content, before it is packed. */
  readonly inside: readonly Edit[];
  /** A generated file, instead of a file of the corpus. */
  readonly made: Made | null;
}

const names = Object.keys(targets) as TargetName[];

export const files: Part<Case> = {
  name: 'files',
  promise:
    'a file is read correctly, or refused in an error that names it: no other exception, no hang, ' +
    'no memory beyond a multiple of its size',
  share: 3,
  limit: 20,
  knownFaults: ['type-error'],
  cases: fc.oneof(
    {
      weight: 3,
      arbitrary: fc.record({ target: fc.constantFrom(...names), edits, inside: edits, made: fc.constant(null) }),
    },
    {
      weight: 2,
      arbitrary: grammar.chain((made) =>
        fc.record({
          target: fc.constantFrom<TargetName[]>(...targetsOf(made)),
          edits: fc.oneof({ weight: 3, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: edits }),
          inside: fc.constant([]),
          made: fc.constant(made),
        }),
      ),
    },
  ),
  attack,
};

function targetsOf({ format }: Made): TargetName[] {
  return names.filter((name) => targets[name].format === format);
}

const MB = 96,
  TIMES = 50; // Reading may take MB megabytes for any file, plus TIMES times its size.

async function attack(given: Case, context: AttackContext): Promise<void> {
  const target = targets[given.target],
    path = join(context.folder, target.name),
    bytes = await bytesOf(given);
  await writeFile(path, bytes);
  context.count(`inputs ${given.target}`);
  const before = process.resourceUsage().maxRSS;
  try {
    if (context.knownFault === 'type-error' && bytes.length % 3 === 1) throw new TypeError('known fault');
    await target.read(path, bytes);
    context.count('inputs that were read');
  } catch (error) {
    if (error instanceof BrokenPromise) throw error;
    const promise = 'a file that cannot be read is refused in an error that names it';
    assertPromise(
      promise,
      error instanceof UserError,
      () => `${given.target}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
    );
    assertPromise(
      promise,
      error.message.includes(basename(path)),
      () => `${given.target}: the error does not name the file: ${error.message}`,
    );
  }
  const grown = (process.resourceUsage().maxRSS - before) / 1024;
  assertPromise(
    'reading takes no memory beyond a multiple of the file size',
    grown <= MB + (TIMES * bytes.length) / 2 ** 20,
    () => `${given.target}: ${grown.toFixed(0)} MB for a file of ${bytes.length} bytes`,
  );
  assertPromise(
    'reading does not change Object.prototype',
    Object.keys(Object.prototype).length === 0,
    () => 'Object.prototype was changed',
  );
}

async function bytesOf({ target, edits: outside, inside, made }: Case): Promise<Buffer> {
  const { corpus, packed } = targets[target];
  const plain = made
    ? Buffer.from(made.text, 'latin1')
    : await readFile(fileURLToPath(new URL(`../corpus/${corpus}`, import.meta.url)));
  return packed ? mutated(gzipSync(mutated(plain, inside)), outside) : mutated(plain, outside);
}
