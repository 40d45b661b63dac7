// A rank that runs collective steps of random sizes in tables of the native device, and compares them with the same in
// plain TypeScript. Every rank draws the data of all ranks.
import assert from 'node:assert/strict';
import { bytesPer, type TypedArray } from '../../../../src/base/dtype.ts';
import type { Collective } from '../../../../src/base/collective.ts';
import type { BoundCollective, Memory } from '../../../../src/device/device.ts';
import { openRanks } from '../../../../src/device/native/mpi.ts';
import { NativeDevice } from '../../../../src/device/native/native.ts';
import { exchanged, joined, randomRows, Draws } from '../exchanges.ts';

const ranks = await openRanks();
assert.ok(ranks);
const { rank, size } = ranks,
  device = await NativeDevice.open(Number(process.argv[2]), undefined, ranks),
  cases = Number(process.argv[3]),
  draws = new Draws(7);

function memoryOf(data: TypedArray): Memory {
  const memory = device.alloc(data.byteLength);
  device.write({ memory, offset: 0 }, data);
  return memory;
}

const stepOf = (
  collective: Collective,
  index: number,
  memories: readonly Memory[],
  ints: readonly number[],
): BoundCollective => ({
  collective,
  buffers: memories.map((memory) => ({ memory, offset: 0 })),
  ints,
  barrier: false,
  unless: null,
  index,
  scope: 'layers.0.moe',
});

/**
 * The same steps, each divided into its begin and its wait, except relays. One waits as late as it can: at the end, or
 * before the first step of `needed` that reads its result.
 */
function divided(steps: readonly BoundCollective[], needed: ReadonlyMap<number, number>): BoundCollective[] {
  const made: BoundCollective[] = [],
    open = new Map<number, number>(); // by step, where it begins
  const wait = (i: number): void => {
    const begunBy = open.get(i);
    if (begunBy === undefined) return;
    made.push({ ...steps[i], phase: 'wait', begunBy });
    open.delete(i);
  };
  steps.forEach((step, i) => {
    for (const [result, reader] of needed) if (reader === i) wait(result);
    if (step.collective === 'relay') made.push(step);
    else open.set(i, made.push({ ...step, phase: 'begin' }) - 1);
  });
  for (const i of [...open.keys()].reverse()) wait(i);
  return made;
}

async function read<T extends TypedArray>(memory: Memory, into: T): Promise<T> {
  await device.read([{ place: { memory, offset: 0 }, into }]);
  return into;
}

/** One table of all collectives: gather, exchange, exchange back, relay, join. */
async function check(number: number): Promise<void> {
  const rows = randomRows(draws, size),
    { counts, slots, offsets, width, experts } = rows,
    room = offsets[rank][experts / size],
    most = Math.max(...rows.tokens.map((t) => t.length));
  const counted = draws.below(number % 4 ? 2000 : 40_000),
    wide = draws.below(2) === 1,
    makeSum = (): Float32Array | Float64Array => (wide ? new Float64Array(counted) : new Float32Array(counted)),
    sums = Array.from({ length: size }, () => makeSum().map(() => draws.real()));
  const gatherFrom = memoryOf(counts[rank]),
    gathered = memoryOf(new Int32Array(size * experts)),
    from = memoryOf(rows.tokens[rank]),
    inSlots = memoryOf(new Float32Array(room * width).fill(-1)),
    back = memoryOf(new Float32Array(most).fill(-1)),
    sumFrom = memoryOf(sums[rank]),
    sumTo = memoryOf(makeSum().fill(-1)),
    taken = memoryOf(makeSum().fill(-1)),
    given = memoryOf(makeSum().fill(-1)),
    sumBytes = counted * (wide ? 8 : 4);
  const slotsAt = memoryOf(slots),
    offsetsAt = memoryOf(offsets[rank]),
    ints = [width * 4, experts];
  const steps = [
    stepOf('gatherRanks', 0, [gatherFrom, gathered], [experts * 4]),
    stepOf('exchangeRows', 1, [from, gathered, slotsAt, offsetsAt, inSlots], [...ints, 0, room]),
    stepOf('exchangeRows', 2, [inSlots, gathered, slotsAt, offsetsAt, back], [...ints, 1, most / width]),
    stepOf('relay', 3, [sumFrom, taken], [sumBytes, 0, number]),
    stepOf('relay', 4, [sumFrom, given], [sumBytes, 1, number]),
    stepOf('joinRanks', 5, [sumFrom, sumTo], [counted, wide ? 1 : 0]),
  ];
  const needed = new Map([
    [0, 1],
    [1, 2],
  ]);
  const bound = device.bind(number % 2 === 1 ? divided(steps, needed) : steps);
  ranks?.at(number, `plan ${number % 3}`);
  await bound.run();
  const name = `case ${number} on rank ${rank} of ${size}: ${experts} experts, rows of ${width}`;
  assert.deepEqual(
    await read(gathered, new Int32Array(size * experts)),
    Int32Array.of(...counts.flatMap((c) => [...c])),
  );
  assert.deepEqual(await read(inSlots, new Float32Array(room * width)), exchanged(rows)[rank], name);
  const own = await read(back, new Float32Array(most));
  assert.deepEqual(own.subarray(0, rows.tokens[rank].length), rows.tokens[rank], `${name}, back`);
  const sum = await read(sumTo, makeSum()),
    bits = (x: TypedArray): Uint8Array =>
      new Uint8Array(x.buffer, x.byteOffset, x.length * bytesPer(wide ? 'float64' : 'float32'));
  assert.deepEqual(bits(sum), bits(joined(sums)), `${name}, sum of ${counted}`);
  assert.deepEqual(await read(taken, makeSum()), sums[Math.max(0, rank - 1)], `${name}, from the rank before`);
  assert.deepEqual(await read(given, makeSum()), sums[size - 1], `${name}, from the last rank`);
  bound.dispose();
  for (const memory of [gatherFrom, gathered, from, inSlots, back, sumFrom, sumTo, taken, given, slotsAt, offsetsAt])
    device.free(memory);
}

for (let i = 0; i < cases; i++) await check(i);
// A step that is skipped exchanges nothing.
const skip = memoryOf(Int32Array.of(1)),
  untouched = memoryOf(new Int32Array(size).fill(9)),
  skipped = device.bind([{ ...stepOf('gatherRanks', 0, [skip, untouched], [4]), unless: { memory: skip, offset: 0 } }]);
await skipped.run();
assert.deepEqual(await read(untouched, new Int32Array(size)), new Int32Array(size).fill(9));
// Calls: any length, by rank.
for (let i = 0; i < 20; i++) {
  const lengths = Array.from({ length: size }, () => draws.below(i % 2 ? 100_000 : 5)),
    pieces: Uint8Array[] = ranks.gather(new Uint8Array(lengths[rank]).fill(rank + 1));
  assert.deepEqual(
    pieces,
    lengths.map((n, r) => new Uint8Array(n).fill(r + 1)),
  );
  const teller = draws.below(size),
    told: Uint8Array = ranks.broadcast(teller, Uint8Array.of(rank, i));
  assert.deepEqual([...told], [teller, i]);
}
const { sent, exchanges } = ranks.counters;
assert.ok(sent > 0 && exchanges > 4 * cases);
await device.close();
ranks.close();
if (rank === 0) console.log(`${cases} cases on ${ranks.description}`);
