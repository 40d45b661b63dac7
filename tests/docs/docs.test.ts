// Runs every code block of README.md and docs/. TypeScript is type-checked with the source and executed. Commands are
// executed, shortened by the rules of commands.ts. A `text` block after either must be its output, except for numbers.
// Blocks that are not run are listed with their reason.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { noChromium, openPage } from '../browser/chromium.ts';
import { blocksOf, documents, proseOf, root, type Block } from './blocks.ts';
import { argumentsOf, OTHER_LANGUAGES, NOT_RUN, SERVES, shortened, SHORTER } from './commands.ts';
import { Workspace, type Finished } from './workspace.ts';

const blocks = documents.flatMap((file) => blocksOf(file)),
  place = await Workspace.make();
after(() => place.remove());
const of = (...languages: readonly string[]): Block[] => blocks.filter(({ language }) => languages.includes(language));

/** The output of each block, to be compared with the `text` block that follows it. */
const said = new Map<Block, string>();
/** Each block has its own file. Blocks that begin with a comment with a file name are parts of one page. */
const fileOf = (b: Block): string => `${b.at.replaceAll(/[^A-Za-z0-9]/g, '-')}.ts`;
const partOf = (b: Block): string | undefined => /^(?:\/\/|<!--) (\w+\.(?:ts|html))\b/.exec(b.text)?.[1];
const shorter = (text: string): string => SHORTER.reduce((t, [long, short]) => t.replace(long, short), text);

test('every kind of block is run or listed as an exception, and no exception is stale', () => {
  const known = new Set(['ts', 'sh', 'json', 'html', 'text', ...OTHER_LANGUAGES.map((f) => f.language)]);
  assert.deepEqual(
    blocks.filter((b) => !known.has(b.language)).map((b) => `${b.at}: "${b.language}"`),
    [],
  );
  for (const { language, begins } of OTHER_LANGUAGES)
    assert.ok(of(language).length > 0 && of(language).every((b) => b.text.startsWith(begins)), begins);
  for (const [long] of SHORTER)
    assert.ok(
      of('ts').some((b) => long.test(b.text)),
      String(long),
    );
  const lines = of('sh').flatMap(linesOf);
  assert.deepEqual(
    Object.keys(NOT_RUN).filter((line) => !lines.includes(line)),
    [],
  );
  // Indented code without a fence would be missed.
  assert.deepEqual(
    documents.flatMap((file) =>
      proseOf(file)
        .split('\n\n')
        .filter((p) => /^ {4}\S/.test(p))
        .map((p) => `${file}: ${p.slice(0, 60)}`),
    ),
    [],
  );
});

test('the files and headings of links exist', () => {
  const wrong: string[] = [];
  for (const file of documents) {
    for (const [, target] of proseOf(file).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target)) continue;
      const [path, heading] = target.split('#'),
        to = path === '' ? file : join(dirname(file), path).replaceAll('\\', '/');
      if (!existsSync(join(root, to))) wrong.push(`${file}: ${target}`);
      else if (heading && !headingsOf(to).includes(heading)) wrong.push(`${file}: ${target} is no heading`);
    }
  }
  assert.deepEqual(wrong, []);
});

/** Anchors of headings, as the usual renderers name them. */
const headingsOf = (file: string): string[] =>
  [...proseOf(file).matchAll(/^#+ (.*)$/gm)].map(([, h]) =>
    h
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
      .trim()
      .replaceAll(' ', '-'),
  );

const programs = of('ts').filter((b) => partOf(b) === undefined);
test('TypeScript blocks have no type errors', async () => {
  const all = of('ts').filter((b) => b.text !== '');
  for (const b of all) await place.write(partOf(b) ?? fileOf(b), shorter(b.text));
  assert.deepEqual(place.typeErrors(all.map((b) => partOf(b) ?? fileOf(b))), []);
});

for (const b of programs) {
  test(`${b.at} runs`, async () => {
    const config = /^export default /m.test(b.text);
    await place.write(fileOf(b), shorter(b.text));
    ended(
      b,
      config
        ? await place.dynamoe(['train', fileOf(b), '--data', 'books', '--batch', '4', '--steps', '12'])
        : await place.node(fileOf(b)),
    );
  });
}

test('JSON blocks are configurations that train', async () => {
  for (const b of of('json')) {
    const name = `${fileOf(b)}on`.replace(/\.tson$/, '.json');
    await place.write(name, b.text);
    ended(b, await place.dynamoe(['train', name, '--data', 'books', '--batch', '4', '--steps', '2']));
  }
});

/** The commands of a block, without comments. A backslash at the end of a line continues the command. */
function linesOf(b: Block): string[] {
  return b.text
    .replaceAll(/\\\n\s*/g, '')
    .split('\n')
    .map((l) => l.replace(/(^|\s+)#.*$/, '').trim())
    .filter((l) => l !== '');
}

const ran = new Set<string>();
for (const b of of('sh')) {
  test(`${b.at} runs`, async (t) => {
    await digits();
    let output = '';
    for (const line of linesOf(b)) {
      if (line in NOT_RUN) {
        t.diagnostic(`not run: ${line}: ${NOT_RUN[line]}`);
        continue;
      }
      const args = argumentsOf(line);
      assert.ok(args, `nothing here runs "${line}"`);
      if (ran.has(line)) continue;
      ran.add(line);
      // Every document starts with an empty run folder.
      const out = args[args.indexOf('--out') + 1];
      if (args.includes('--out') && !args.includes('--resume'))
        await rm(join(place.folder, out), { recursive: true, force: true });
      const { code, output: text } = await place.dynamoe(shortened(args), SERVES[args[0]]);
      assert.ok(code === 0 || code === 130 || (SERVES[args[0]]?.test(text) ?? false), `${line}\n${text}`);
      output += text;
    }
    said.set(b, output);
  });
}

test('text blocks are the output of the block before', () => {
  const plain = (line: string): string => line.replaceAll(/\d+(\.\d+)?(e-?\d+)?/g, '0').trim();
  let compared = 0;
  for (const b of of('text')) {
    const before = blocks[blocks.indexOf(b) - 1] as Block | undefined,
      output = before && before.file === b.file ? said.get(before) : undefined;
    if (output === undefined) continue; // a drawing
    const lines = output.split('\n').map(plain);
    let at = 0;
    for (const line of b.text.split('\n').filter((l) => l.trim() !== '...')) {
      const found = lines.indexOf(plain(line), at);
      assert.ok(found >= 0, `${b.at}: "${line}" is not printed (in this order) by the block before:\n${output}`);
      at = found + 1;
      compared++;
    }
  }
  assert.ok(compared > 0);
});

test('the page of the browser guide trains in Chromium', { skip: noChromium, timeout: 60_000 }, async (t) => {
  const [html] = of('html'),
    parts = of('ts').filter((b) => partOf(b) !== undefined && b.file === html.file);
  for (const b of parts) await place.write(partOf(b)!, shorter(b.text));
  const { page, close } = await openPage(
    html.text,
    Object.fromEntries(parts.map((b) => [partOf(b)!.replace(/ts$/, 'js'), join(place.folder, partOf(b)!)])),
    false,
  );
  t.after(close);
  await page
    .locator('pre')
    .filter({ hasText: /loss \d\.\d+[^]*done/ })
    .waitFor({ timeout: 30_000 });
});

function ended(b: Block, { code, output }: Finished): void {
  assert.equal(code, 0, `${b.at}\n${output}`);
  said.set(b, output);
}

/** A replacement for MNIST's files: 8,064 pictures whose label is the brightest of ten rows. */
async function digits(): Promise<void> {
  const folder = join(place.folder, 'FOLDER'),
    count = 8064;
  if (existsSync(folder)) return;
  await mkdir(folder);
  const images = Buffer.alloc(16 + count * 784),
    labels = Buffer.alloc(8 + count);
  [0x803, count, 28, 28].forEach((n, i) => images.writeUInt32BE(n, 4 * i));
  [0x801, count].forEach((n, i) => labels.writeUInt32BE(n, 4 * i));
  for (let i = 0; i < count; i++) {
    const label = (i * 7 + (i >> 3)) % 10;
    labels[8 + i] = label;
    images.fill(200, 16 + i * 784 + (2 * label + 4) * 28, 16 + i * 784 + (2 * label + 5) * 28);
  }
  await writeFile(join(folder, 't10k-images-idx3-ubyte'), images);
  await writeFile(join(folder, 't10k-labels-idx1-ubyte'), labels);
}
