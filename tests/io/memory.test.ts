// Tests free memory in containers: limits of control groups of both versions, on any level of the hierarchy.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { dirname, join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { freeMemory } from '../../src/io/memory.ts';
import { noCompiler } from '../support/toy.ts';
import { temporaryFolder } from './folder.ts';

const MB = 2 ** 20,
  NONE = '9223372036854771712\n'; // version 1 writes this number if there is no limit

/** The root folder of a system that has these files. */
async function system(t: TestContext, files: Readonly<Record<string, string | number>>): Promise<string> {
  const root = await temporaryFolder(t);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), `${text}`);
  }
  return root;
}

const V2 = '31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n',
  V1 = '35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n';

test("version 2: a group's limit minus the used memory, without file pages that can be reclaimed", async (t) => {
  const group = (
    name: string,
    max: string | number,
    current: number,
    inactive = 0,
  ): Record<string, string | number> => ({
    [`sys/fs/cgroup/${name}memory.max`]: `${max}\n`,
    [`sys/fs/cgroup/${name}memory.current`]: `${current}\n`,
    [`sys/fs/cgroup/${name}memory.stat`]: `anon 1\ninactive_file ${inactive}\nactive_file 7\n`,
  });
  const free = async (own: string, ...groups: Record<string, string | number>[]): Promise<number> =>
    freeMemory(
      await system(t, {
        'proc/self/cgroup': `0::${own}\n`,
        'proc/self/mountinfo': V2,
        ...(Object.assign({}, ...groups) as object),
      }),
    );
  assert.equal(await free('/a', group('a/', 500 * MB, 200 * MB)), 300 * MB);
  assert.equal(
    await free('/a', group('a/', 500 * MB, 450 * MB, 400 * MB)),
    450 * MB,
    'memory of the page cache counts as free',
  );
  assert.equal(
    await free('/a/b/c', group('a/b/c/', 'max', 10 * MB), group('a/', 100 * MB, 40 * MB)),
    60 * MB,
    'the limit of an enclosing group',
  );
  assert.equal(await free('/', group('', 64 * MB, 1 * MB)), 63 * MB, 'a container that sees its own group as the root');
  assert.equal(await free('/elsewhere', group('', 64 * MB, 1 * MB)), 63 * MB, 'a path that is not mounted');
  assert.equal(
    await free('/a', group('a/', 500 * MB, 200 * MB), { 'sys/fs/cgroup/a/memory.high': `${250 * MB}\n` }),
    50 * MB,
  );
  assert.equal(await free('/a', group('a/', 10 * MB, 20 * MB)), 0);
  assert.equal(await free('/a', group('a/', 'max', 20 * MB)), Infinity);
});

test('version 1, mixed with version 2, and in a container of Docker', async (t) => {
  const group = (
    name: string,
    limit: string | number,
    usage: number,
    inactive = 0,
  ): Record<string, string | number> => ({
    [`sys/fs/cgroup/memory/${name}memory.limit_in_bytes`]: `${limit}\n`,
    [`sys/fs/cgroup/memory/${name}memory.usage_in_bytes`]: `${usage}\n`,
    [`sys/fs/cgroup/memory/${name}memory.stat`]: `inactive_file 3\ntotal_inactive_file ${inactive}\n`,
  });
  const own = (path: string): string => `9:name=systemd:/\n4:cpu,memory:${path}\n0::/\n`,
    unified = '41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n';
  assert.equal(
    freeMemory(
      await system(t, {
        'proc/self/cgroup': own('/dyn'),
        'proc/self/mountinfo': V1 + unified,
        ...group('dyn/', 500 * MB, 100 * MB, 50 * MB),
        ...group('', NONE, 9000 * MB),
      }),
    ),
    450 * MB,
  );
  const docker = '35 31 0:32 /docker/8f /sys/fs/cgroup/memory ro master:1 - cgroup cgroup rw,memory\n';
  assert.equal(
    freeMemory(
      await system(t, {
        'proc/self/cgroup': own('/docker/8f'),
        'proc/self/mountinfo': docker,
        ...group('', 256 * MB, 56 * MB),
      }),
    ),
    200 * MB,
  );
  assert.equal(freeMemory(await system(t, {})), Infinity, 'a system without such files');
  assert.equal(
    freeMemory(await system(t, { 'proc/self/cgroup': 'nonsense\n4:memory\n', 'proc/self/mountinfo': 'too short\n' })),
    Infinity,
  );
});

test("on this machine it is more than 0 and at most the machine's memory", () => {
  assert.ok(freeMemory() > 0 && freeMemory() <= freemem() * 1.05);
});

const GROUP = `/sys/fs/cgroup/memory/dynamoe-test-${process.pid}`;
const reason =
  noCompiler ||
  (process.getuid?.() !== 0 && 'needs root') ||
  (!existsSync('/sys/fs/cgroup/memory/memory.limit_in_bytes') && 'needs control groups of version 1');

test('in a container of 500 MB, every device refuses a plan of 1.3 GB', { skip: reason }, (t) => {
  try {
    mkdirSync(GROUP);
    writeFileSync(join(GROUP, 'memory.limit_in_bytes'), String(500 * MB));
  } catch {
    t.skip('control groups cannot be made here');
    return;
  }
  const node = new URL('../../src/node.ts', import.meta.url).href;
  const code =
    `import { compile, hostTensor, loss, nn, optim } from ${JSON.stringify(node)};
    try {
      const s = await compile(new nn.MLP([2048, 8192, 8192, 10]), { loss: loss.crossEntropy, optimizer: ` +
    `optim.adamW({ lr: 1e-3 }), device: process.argv[1] });
      await s.step({ x: hostTensor('float32', [256, 2048], new Float32Array(256 * 2048)), y: hostTensor('int32', ` +
    `[256], new Int32Array(256)) });
    } catch (error) { console.log(String(error).split('\\n')[0]); }`;
  try {
    for (const device of ['native', 'wasm', 'reference']) {
      const { stdout, signal } = spawnSync(
        'sh',
        [
          '-c',
          `echo $$ > ${GROUP}/cgroup.procs; exec "$@"`,
          'sh',
          process.execPath,
          '--input-type=module',
          '-e',
          code,
          device,
        ],
        { encoding: 'utf8' },
      );
      assert.equal(signal, null, device);
      assert.match(stdout, /needs .* of memory.*, .* MiB are available/, device);
    }
  } finally {
    rmdirSync(GROUP);
  }
});
