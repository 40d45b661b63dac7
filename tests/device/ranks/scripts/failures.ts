// A rank of a run of ten steps. At step 5 the last rank (or every rank) does what the first argument says. With a
// second argument `begun` it does so after an exchange of large messages has begun, before it waits for it.
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TypedArray } from '../../../../src/base/dtype.ts';
import type { Memory } from '../../../../src/device/device.ts';
import { openRanks } from '../../../../src/device/native/mpi.ts';
import { findLauncher } from '../../../../src/device/native/mpi/launcher.ts';
import { NativeDevice } from '../../../../src/device/native/native.ts';
import { RanksError } from '../../../../src/device/ranks.ts';

const [, , fault, when] = process.argv,
  begun = when === 'begun',
  FAULTY = 5,
  launched = findLauncher(process.env);
console.log(`process ${process.pid}`);
if (fault === 'stopStart' && launched && launched.rank === launched.size - 1) process.kill(process.pid, 'SIGSTOP');
if (fault === 'stopCompiler' && launched?.rank === 0) process.kill(process.pid, 'SIGSTOP');
if (fault === 'never' && launched && launched.rank === launched.size - 1) await sleep(1_000_000);
const found = await openRanks();
if (!found) throw new Error('started without ranks');
const ranks = found,
  { rank, size } = ranks,
  isLast = rank === size - 1,
  device = await NativeDevice.open(1, undefined, ranks);

function memoryOf(data: TypedArray): Memory {
  const memory = device.alloc(data.byteLength);
  device.write({ memory, offset: 0 }, data);
  return memory;
}

/** Each rank has two experts and sends three rows to each of them: of one number, or of many. */
const experts = 2 * size,
  width = begun ? 1 << 16 : 1,
  numbers = (n: number, value = 0): Float32Array => new Float32Array(n).fill(value),
  counts = new Int32Array(size * experts).fill(3),
  countsAt = memoryOf(counts),
  slots = Int32Array.from({ length: experts }, (_, e) => e),
  slotsAt = memoryOf(slots),
  room = 6 * size,
  buffers = [
    memoryOf(numbers(room * width, 1)),
    countsAt,
    slotsAt,
    memoryOf(Int32Array.of(0, room / 2, room)),
    memoryOf(numbers(room * width)),
  ],
  exchange = {
    collective: 'exchangeRows',
    buffers: buffers.map((memory) => ({ memory, offset: 0 })),
    ints: [4 * width, experts, 0, room],
    barrier: true,
    unless: null,
    index: 12,
    scope: 'layers.0.moe',
  } as const,
  bound = device.bind(
    begun
      ? [
          { ...exchange, phase: 'begin' },
          { ...exchange, phase: 'wait', begunBy: 0 },
        ]
      : [exchange],
  );
const write = (memory: Memory, data: TypedArray): void => {
  device.write({ memory, offset: 0 }, data);
};

/** What the last rank does. */
const FAULTS: Readonly<Record<string, () => unknown>> = {
  throw: () => {
    throw new TypeError('a bug');
  },
  exit: () => process.exit(0),
  abort: () => ranks.abort(new RanksError('the disk is full', 'free some space')),
  kill: () => process.kill(process.pid, 'SIGKILL'),
  stop: () => process.kill(process.pid, 'SIGSTOP'),
  // The other rank comes to this exchange after the stop, and has what it needs from this rank.
  stopWaiting: () => spawn('sh', ['-c', 'sleep 1; kill -STOP $PPID'], { stdio: 'ignore' }),
  plan: () => {
    ranks.at(FAULTY, 'another plan');
  },
  step: () => {
    ranks.at(FAULTY + 1, 'plan');
  },
  elsewhere: () => ranks.gather(new Uint8Array(4)),
  memory: () => {
    for (const all: number[][] = []; ;) all.push(new Array<number>(1000).fill(0.5));
  },
  endless: () => {
    for (;;);
  },
  more: () => {
    write(
      countsAt,
      counts.map((n) => n + 1),
    );
  },
  slots: () => {
    write(slotsAt, slots.fill(0));
  },
  counts: () => {
    write(
      countsAt,
      counts.map((n) => n - 1),
    );
  },
  // These are no faults.
  compiles: () => ranks.compiling(() => sleep(4000)),
  busy: () => {
    for (const end = performance.now() + 4000; performance.now() < end;);
  },
};

/** A rank that ends too early. */
const isShort = fault === 'unclosed' && isLast;
for (let step = 0; step < (isShort ? FAULTY : 10); step++) {
  ranks.at(step, 'plan');
  if (begun) await bound.run(0, 1);
  if (step === FAULTY) {
    if (fault === 'stopWaiting' && !isLast) await sleep(3000);
    if (fault === 'same') ranks.same('the plan', rank === 0 ? 'a plan' : 'another plan');
    else if (fault === 'calls' && isLast) ranks.gather(new Uint8Array(4));
    else if (fault === 'calls') ranks.same('the plan', 'a plan');
    else if (isLast) await FAULTS[fault]?.();
  }
  await (begun ? bound.run(1, 2) : bound.run());
}
bound.dispose();
await device.close();
if (!isShort) console.log(`rank ${rank} has run all steps`);
