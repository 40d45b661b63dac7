// The shim that runs the text of CUDA kernels on a CPU finds what a GPU might do wrong silently: barriers that not all
// threads of a block reach, shared memory that is read before it is set, results that depend on the order of threads.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { noCompiler } from '../../support/toy.ts';
import { runText } from '../../support/cuda/shim.ts';

const BLOCKS = 2,
  THREADS = 8,
  NUMBERS = Float32Array.from({ length: BLOCKS * THREADS }, (_, i) => i),
  skip = noCompiler;

/** Runs the body of a kernel on NUMBERS. `t`: the thread; `i`: its element of `b`. Barriers name lines of the body. */
async function run(body: readonly string[], unless?: number): Promise<number[]> {
  const head =
      'DM_KERNEL(planted, 8, 2) { if (DM_SKIP) return; float *const b = (float *)DM_WORD(1); ' +
      'const int t = DM_THREAD, i = DM_BLOCK * 8 + t;',
    numbers = NUMBERS.slice(),
    own = unless === undefined ? {} : { unless };
  await runText([head, ...body, '}'].join('\n'), {
    name: 'planted',
    blocks: BLOCKS,
    threads: THREADS,
    buffers: [numbers],
    ...own,
  });
  return [...numbers];
}

/** Runs it twice: threads and blocks from the first to the last, and from the last to the first. */
async function bothOrders(body: readonly string[]): Promise<[number[], number[]]> {
  const ascending = await run(body);
  process.env['DYNAMOE_SHIM_REVERSED'] = '1';
  try {
    return [ascending, await run(body)];
  } finally {
    delete process.env['DYNAMOE_SHIM_REVERSED'];
  }
}

test('threads exchange values through shared memory', { skip }, async () => {
  const wanted = Array.from(NUMBERS, (_, i) => 2 * (i ^ 7));
  // Three barriers, one of them in a loop.
  const body = [
    'DM_SHARED float s[8];',
    's[t] = b[i];',
    '__syncthreads();',
    'float x = 0;',
    'for (int n = 0; n < 2; n++) {',
    'x += s[7 - t];',
    '__syncthreads();',
    '}',
    's[t] = x;',
    '__syncthreads();',
    'b[i] = s[t];',
  ];
  assert.deepEqual(await bothOrders(body), [wanted, wanted]);
});

test('without the barrier, the result depends on the order of threads', { skip }, async () => {
  const [first, second] = await bothOrders(['DM_SHARED float s[8];', 's[t] = b[i];', 'b[i] = s[7 - t];']);
  assert.notDeepEqual(first, second);
});

test('blocks that use what other blocks write: the result depends on the order of blocks', { skip }, async () => {
  const [first, second] = await bothOrders(['b[i] = b[(i + 8) % 16] + 1;']);
  assert.notDeepEqual(first, second);
});

test('shared memory holds NaN before each block', { skip }, async () => {
  const body = ['DM_SHARED float s[8];', 'b[i] = s[t];', 's[t] = 5;'];
  assert.deepEqual(
    await run(body),
    Array.from(NUMBERS, () => NaN),
  );
});

test('a barrier that some threads do not reach is found by kernel, line and thread', { skip }, async () => {
  await assert.rejects(
    run(['if (i < 13)', '__syncthreads();', 'b[i] = 0;']),
    /^Error: planted: barrier in line 3: thread 0 of block 1 waits, thread 5 has ended$/,
  );
  await assert.rejects(
    run(['if (t == 3) return;', '__syncthreads();']),
    /^Error: planted: barrier in line 3: thread 0 of block 0 waits, thread 3 has ended$/,
  );
  await assert.rejects(
    run(['if (t < 3) return;', '__syncthreads();']),
    /^Error: planted: barrier in line 3: thread 3 of block 0 waits, thread 0 has ended$/,
  );
  // One thread comes once more than the others.
  await assert.rejects(
    run(['for (int n = 0; n < 2 + (t == 6); n++)', '__syncthreads();']),
    /^Error: planted: barrier in line 3: thread 6 of block 0 waits, thread 0 has ended$/,
  );
});

test('threads that wait at different barriers are found', { skip }, async () => {
  await assert.rejects(
    run(['if (t < 2)', '__syncthreads();', 'else', '__syncthreads();']),
    /^Error: planted: threads wait at different barriers: of block 0 thread 0 in line 3, thread 2 in line 5$/,
  );
});

test('a kernel does nothing where the int32 that guards it is not 0', { skip }, async () => {
  assert.deepEqual(await run(['b[i] = 1;'], 1), [...NUMBERS]);
  assert.deepEqual(
    await run(['b[i] = 1;'], 0),
    Array.from(NUMBERS, () => 1),
  );
});
