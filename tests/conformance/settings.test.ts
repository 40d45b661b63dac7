// Ops with random settings and operands, valid or not. If a node cannot be computed, making the graph throws an error
// that names the op; otherwise every device gives what the reference gives. Nodes and the values of their operands
// come from the families' cases; then one setting, dtype or size is changed.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { castValue } from '../../src/base/convert.ts';
import { DTYPES, isFloat, type DType } from '../../src/base/dtype.ts';
import { ShapeError, UserError } from '../../src/base/errors.ts';
import { Stream } from '../../src/base/random.ts';
import { boundOf, elements, type Dim, type TensorType } from '../../src/base/shape.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import {
  attrsText,
  dimValues,
  type Attrs,
  type AttrValue,
  type Graph,
  type Node,
  type ValueId,
} from '../../src/graph/graph.ts';
import { ops } from '../../src/graph/ops/index.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { evaluate } from '../../src/run/reference.ts';
import { all } from './cases/index.ts';
import { DEVICES } from './devices.ts';
import { drawsFromEnv } from '../support/random-cases.ts';
import { buildCase, compareGraphsWithReference, drawInputs, type Feed } from './harness.ts';

const { seed, times } = drawsFromEnv();
const TRIES = 8 * times; // for each op
const GRAPHS_PER_PROGRAM = 24; // graphs that are compiled into one program

/**
 * Ops that trust row numbers, positions or expert numbers made by other ops. A changed setting can make such numbers
 * wrong, so these nodes are built but not computed.
 */
const TRUSTING = new RegExp(
  '^(admit|admitAll|arrange|collect|combine.*|dispatch|grouped.*|joinRows|joinSegments|maxPool2dTake|permute.*|' +
    'own.*|placeRows|rank.*|recall|remember|rowSegments|segment.*|splitRows|splitSegments|topKUnless|window.*)$',
);

interface Call {
  readonly node: Node;
  readonly graph: Graph;
  readonly values: readonly Float64Array[];
}

/** Some nodes of each op, with the values of their operands. */
function callsOf(op: string): Call[] {
  return all
    .filter((f) => f.op === op)
    .slice(0, 2)
    .flatMap((f) =>
      fc.sample(f.cases, { seed, numRuns: 2 }).flatMap((c, i) => {
        const built = buildCase({ ...c, withoutGradient: [] }),
          inputs = drawInputs(c, built, seed + i),
          { graph } = built;
        const values = evaluate(graph, ops, ({ name }) => inputs[built.specs.findIndex((s) => s.name === name)]);
        return graph.nodes
          .filter((n) => n.op === op)
          .slice(0, 1)
          .map((node) => ({ node, graph, values }));
      }),
    );
}

/** Changes one thing of a call: an attribute, or the dtype or a size of one operand. */
interface Change {
  attrs(attrs: Attrs): Attrs;
  type(type: TensorType, operand: number): TensorType;
}

const ODD = [-1, 0, 1, 2, 3, 0.5, NaN, Infinity, -Infinity, 1e15, -7];

function changed(value: AttrValue | undefined, pick: (n: number) => number): AttrValue | undefined {
  if (typeof value === 'boolean') return !value;
  if (typeof value === 'string') return [...DTYPES, 'int64', ''][pick(DTYPES.length + 2)];
  if (typeof value === 'number') return [...ODD, value + 1, value - 1][pick(ODD.length + 2)];
  if (value === undefined) return value;
  const at = pick(value.length + 2);
  return at === value.length
    ? [...value, 1]
    : at === value.length + 1
      ? value.slice(1)
      : value.map((v, i) => (i === at ? ODD[pick(ODD.length)] : v));
}

function change(call: Call, random: Stream, trial: number): Change {
  let step = 0;
  const pick = (n: number): number => Math.floor(random.uniform(trial, step++) * n),
    keys = Object.keys(call.node.attrs),
    operand = pick(Math.max(1, call.node.inputs.length)),
    none: Change = { attrs: (a) => a, type: (t) => t };
  switch (pick(keys.length > 0 ? 4 : 2)) {
    case 0: {
      const dtype = DTYPES[pick(DTYPES.length)];
      return { ...none, type: (t, i) => (i === operand ? { ...t, dtype } : t) };
    }
    case 1: {
      const axis = pick(4),
        by = pick(2) * 2 - 1;
      return {
        ...none,
        type: (t, i) =>
          i === operand
            ? { ...t, shape: t.shape.map((d, k) => (k === axis && typeof d === 'number' ? Math.max(0, d + by) : d)) }
            : t,
      };
    }
    default: {
      const key = keys[pick(keys.length)],
        value = changed(call.node.attrs[key], pick);
      return { ...none, attrs: (a) => ({ ...a, [key]: value }) };
    }
  }
}

/** A graph of the changed call alone; its operands are inputs. Throws if making the graph throws. */
function graphOfCall(call: Call, { attrs, type }: Change, name: string): Feed {
  const b = new GraphBuilder(ops),
    made = new Map<ValueId, Tensor>(),
    data: Record<string, Float64Array> = {};
  const give = (v: ValueId, as: TensorType): Tensor => {
    const found = made.get(v);
    if (found) return found;
    for (const d of dimValues(as)) give(d, call.graph.types[d]);
    const dim = (d: Dim): Dim =>
      typeof d === 'number'
        ? d
        : d.kind === 'bounded'
          ? { ...d, count: made.get(d.count)?.id ?? -1 }
          : { ...d, offsets: made.get(d.offsets)?.id ?? -1 };
    const x = b.input('input', `v${v}`, { dtype: as.dtype, shape: as.shape.map(dim) }),
      old = call.values[v],
      from = call.graph.types[v].dtype;
    const fill = isFloat(as.dtype) && !isFloat(from) ? 1 : 0;
    data[`v${v}`] = Float64Array.from({ length: elements(as.shape) }, (_, i) =>
      castValue(old[i] ?? fill, as.dtype, isFloat(from) ? 'float64' : from),
    );
    made.set(v, x);
    return x;
  };
  const inputs = call.node.inputs.map((v, i) => give(v, type(call.graph.types[v], i)));
  b.emit(call.node.op, inputs, attrs(call.node.attrs)).forEach((o, i) => {
    b.output(`out/${i}`, o);
  });
  return { name, graph: b.build(), data };
}

test('a node that cannot be computed is refused by name; all others give the results of the reference', async (t) => {
  const random = new Stream(seed, 'settings'),
    computable: Feed[] = [];
  let refused = 0,
    trial = 0;
  for (const op of ops.keys()) {
    const calls = callsOf(op);
    for (let n = 0; calls.length > 0 && n < TRIES; n++) {
      const call = calls[n % calls.length],
        other = change(call, random, trial++),
        what = `${op}${attrsText(other.attrs(call.node.attrs))}`;
      try {
        const feed = graphOfCall(call, other, what);
        for (const { shape } of feed.graph.types)
          assert.ok(
            shape.every((d) => Number.isSafeInteger(boundOf(d)) && boundOf(d) >= 0),
            `${what} has a size that is not a whole number of at least 0`,
          );
        if (!TRUSTING.test(op)) computable.push(feed);
      } catch (error) {
        assert.ok(
          error instanceof UserError && (!(error instanceof ShapeError) || error.message.includes(op)),
          `${what}: ${String(error)}`,
        );
        refused++;
      }
    }
  }
  t.diagnostic(`${refused} of ${trial} refused, ${computable.length} computed, seed ${seed}`);
  for (const entry of DEVICES) {
    const reason = await entry.skip();
    if (reason !== null) {
      t.diagnostic(`without ${entry.name}: ${reason}`);
      continue;
    }
    const device = await entry.open();
    try {
      const near: Partial<Record<DType, number>> = { float32: 1e-4, float64: 1e-11 };
      for (let at = 0; at < computable.length; at += GRAPHS_PER_PROGRAM)
        await compareGraphsWithReference(
          computable.slice(at, at + GRAPHS_PER_PROGRAM),
          device,
          (dtype) => near[dtype] ?? 0,
        );
    } finally {
      await device.close();
    }
  }
});
