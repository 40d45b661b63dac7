// Every op in every dtype that it accepts (a dtype is accepted if building the case does not throw). The float32
// inputs of the families' cases get another dtype and its extreme values; counts of rows are 0, 1 and the bound; rows
// past a count hold NaN or the largest integer. Integers, bools and values that are only moved must equal the
// reference on all devices; float64 results and gradients agree with the reference to 1e-11.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { DTYPES, isFloat, type DType } from '../../src/base/dtype.ts';
import { ShapeError } from '../../src/base/errors.ts';
import { isHalf } from '../../src/base/half.ts';
import type { Device } from '../../src/device/device.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { all } from './cases/index.ts';
import { DEVICES, type DeviceEntry } from './devices.ts';
import { drawsFromEnv } from '../support/random-cases.ts';
import { title } from './draws.ts';
import { buildCase, compareDevices, compareWithReference, type Case, type InputSpec } from './harness.ts';
import type { Family } from './shapes.ts';

const { seed, times } = drawsFromEnv();

/** Extreme values of each dtype. */
const EXTREMES: Readonly<Record<DType, readonly number[]>> = {
  float64: [0, -0, 1, -1, 1e-200, 5e-324, Infinity, -Infinity, NaN, 0.1, 1 + 2 ** -52],
  float32: [0, -0, 1, -1, 1e-30, 2 ** -149, Infinity, -Infinity, NaN, 0.1],
  bfloat16: [0, -0, 1, -1, 0xff * 2 ** 120, 2 ** -133, Infinity, -Infinity, NaN, 0.1],
  float16: [0, -0, 1, -1, 65504, 2 ** -24, Infinity, -Infinity, NaN, 0.1],
  int32: [0, 1, -1, 2, 7, -7, 2 ** 31 - 1, -(2 ** 31), 65537],
  uint32: [0, 1, 2, 7, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 65537],
  bool: [0, 1],
};

/**
 * Large numbers, for elementwise ops only: in a sum, it depends on the order of summation what they leave of small
 * numbers.
 */
const LARGE: Partial<Record<DType, readonly number[]>> = {
  float64: [1e100, -1e100, Number.MAX_VALUE, -Number.MAX_VALUE],
  float32: [1e20, -1e20, (2 - 2 ** -23) * 2 ** 127],
};
const elementwise = ({ op, name }: Family): boolean => {
  const lower = ops.get(op)?.lower;
  return lower?.kind === 'map' && lower.linear !== undefined && !name?.startsWith('of ');
};

/** `plain`: values as the case draws them. `some`: one value in three is an extreme. `extreme`: all are extremes. */
type Draw = 'plain' | 'some' | 'extreme';
const DRAW_TITLES: Readonly<Record<Draw, string>> = {
  plain: 'results and gradients',
  some: 'some extremes',
  extreme: 'extremes',
};

function retyped(
  c: Case,
  dtype: DType,
  draw: Draw,
  rows: number | null,
  finite: readonly string[] = [],
  large = false,
): Case {
  const inputs = c.inputs.map((spec): InputSpec => {
    const counted = c.inputs.find((i) =>
      i.shape.some((d) => typeof d === 'object' && ('count' in d ? d.count : d.offsets) === spec.name),
    );
    const bound = counted?.shape.find((d) => typeof d === 'object');
    if (rows !== null && typeof bound === 'object') {
      const n = Math.min(rows, bound.bound);
      return { ...spec, data: 'count' in bound ? [n] : [0, ...Array.from({ length: bound.segments }, () => n)] };
    }
    if ((spec.dtype ?? 'float32') !== 'float32') return spec;
    if (draw === 'plain') return { ...spec, dtype };
    const { value: own, data: _, ...rest } = spec,
      list = [...EXTREMES[dtype], ...(large ? (LARGE[dtype] ?? []) : [])].filter(
        (v) => Number.isFinite(v) || !finite.includes(spec.name),
      );
    const pick: NonNullable<InputSpec['value']> = (random, i) => {
      const extreme = draw === 'extreme' || random.uniform < 0.34,
        u = (random.uniform * 7919 + i * 0.618) % 1;
      if (extreme) return list[Math.floor(u * list.length)];
      const drawn = own && isFloat(dtype) ? own(random, i) : random.normal;
      return isFloat(dtype) ? drawn : list[Math.floor(u * Math.min(5, list.length))];
    };
    return { ...rest, dtype, value: pick, grad: false };
  });
  const { kink: _, ...rest } = c;
  return draw === 'plain' ? { ...c, inputs } : { ...rest, inputs };
}

/**
 * The inputs that must be finite. Devices multiply the zeros of a convolution's padding by the weights, and the weight
 * 0 of a key that a query of attention does not see by the key's values; the reference skips them. So infinite values
 * would give different results.
 */
function mustBeFinite({ op }: Family, c: Case): string[] {
  const floats = c.inputs.filter((i) => (i.dtype ?? 'float32') === 'float32').map((i) => i.name);
  if (op.startsWith('attention')) return floats;
  return /conv2d|depthwise/.test(op) ? floats.slice(1) : [];
}

/** Whether the case can be built. Errors other than ShapeError are thrown. */
function accepted(c: Case): boolean {
  try {
    buildCase(c);
    return true;
  } catch (error) {
    if (error instanceof ShapeError) return false;
    throw error;
  }
}

const samples = (f: Family, count: number): Case[] => fc.sample(f.cases, { seed, numRuns: count });
const hasFloats = (c: Case): boolean => c.inputs.some((i) => (i.dtype ?? 'float32') === 'float32');

/** Ops whose results are float32 for any dtype of their inputs, or that take nothing else. */
const ALWAYS_FLOAT32 = new Set(['uniform', 'roundStochastic']);

test('ops that accept float32 accept float64', () => {
  for (const f of all) {
    if (ALWAYS_FLOAT32.has(f.op)) continue;
    for (const c of samples(f, 3).filter(hasFloats))
      assert.ok(accepted(retyped(c, 'float64', 'plain', null)), title(f));
  }
});

test('only ops that move values accept bfloat16 and float16', () => {
  const moved: readonly string[] = [...ops.values()].filter((op) => op.takes?.includes('stored')).map((op) => op.name);
  for (const f of all) {
    if (moved.includes(f.op)) continue;
    for (const c of samples(f, 2)) {
      // If bool is accepted as well, the case does not use its float inputs.
      if (!hasFloats(c) || accepted(retyped(c, 'bool', 'plain', null))) continue;
      for (const dtype of ['bfloat16', 'float16'] as const)
        assert.throws(() => buildCase(retyped(c, dtype, 'plain', null)), ShapeError, `${title(f)} ${dtype}`);
    }
  }
});

test('ops that move elements of their first input accept it as bfloat16 and float16', () => {
  const moving = [...ops.values()].filter((op) => op.moves === 'first');
  assert.deepEqual(
    moving.filter((op) => op.takes?.[0] !== 'stored').map((op) => op.name),
    [],
  );
});

const opened = new Map<string, Device>();
after(async () => {
  for (const d of opened.values()) await d.close();
});
async function deviceOf(entry: DeviceEntry): Promise<Device> {
  const device = opened.get(entry.name) ?? (await entry.open());
  opened.set(entry.name, device);
  return device;
}

/** The number of cases that are compiled into one program. */
const CASES_PER_PROGRAM = 12;

test('float32 at its extremes: the same bits on all devices', async (t) => {
  const devices = await Promise.all(
      DEVICES.map(async (entry) => {
        const reason = await entry.skip();
        return reason === null ? await deviceOf(entry) : null;
      }),
    ),
    [wasm, ...others] = devices.filter((d) => d !== null);
  if (others.length === 0 || !wasm.info.exact.includes('float32')) {
    t.skip('two devices with equal bits are needed');
    return;
  }
  const cases = all
    .flatMap((f) =>
      samples(f, times)
        .filter(hasFloats)
        .map((c) => ({ name: title(f), c: retyped(c, 'float32', 'extreme', null, [], true) })),
    )
    .filter(({ c }) => accepted(c));
  for (let at = 0; at < cases.length; at += CASES_PER_PROGRAM)
    for (const other of others) await compareDevices(cases.slice(at, at + CASES_PER_PROGRAM), seed + at, wasm, other);
});

for (const dtype of DTYPES) {
  for (const draw of dtype === 'float64' ? (['plain', 'some', 'extreme'] as const) : (['extreme'] as const)) {
    if (dtype === 'float32') continue; // the families themselves test it
    test(`${dtype}, ${DRAW_TITLES[draw]}`, async (t) => {
      const cases = all
        .flatMap((f) =>
          samples(f, times)
            .filter(hasFloats)
            .flatMap((c) => {
              const counted = c.inputs.some((i) => i.shape.some((d) => typeof d === 'object'));
              const rows = draw === 'plain' || !counted ? [null] : [0, 1, Infinity];
              return rows.map((n) => ({
                name: title(f),
                c: retyped(c, dtype, draw, n, mustBeFinite(f, c), elementwise(f)),
              }));
            }),
        )
        .filter(({ c }) => accepted(c));
      assert.ok(cases.length > 0);
      t.diagnostic(`${cases.length} cases, ${new Set(cases.map((c) => c.name)).size} families, seed ${seed}`);
      for (const entry of DEVICES) {
        const reason = await entry.skip();
        if (reason !== null) {
          t.diagnostic(`without ${entry.name}: ${reason}`);
          continue;
        }
        const device = await deviceOf(entry);
        for (let at = 0; at < cases.length; at += CASES_PER_PROGRAM) {
          await compareWithReference(
            cases.slice(at, at + CASES_PER_PROGRAM),
            seed + at,
            device,
            isFloat(dtype) && !isHalf(dtype) ? 1e-11 : 0,
          );
        }
      }
    });
  }
}
