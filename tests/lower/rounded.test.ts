// Random graphs whose values are rounded to 16 bits at random places. What is stored, recomputed, moved or widened by
// its readers does not change a bit: results are those of a graph that gives all its values as outputs, and those of
// the other device.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import type { Device } from '../../src/device/device.ts';
import { NativeDevice } from '../../src/device/native/native.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import type { Graph, ValueId } from '../../src/graph/graph.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { verifyGraph } from '../../src/graph/verify.ts';
import { rebuild } from '../../src/passes/rebuild.ts';
import { compileGraph, loadProgram } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { randomGraph, type RandomGraph } from '../support/random-graph.ts';
import { noCompiler } from '../support/toy.ts';

const GRAPHS = process.env['DYNAMOE_FULL'] ? 30 : 8;
const devices: Device[] = [await WasmDevice.open(2), ...(noCompiler ? [] : [await NativeDevice.open(2)])];
after(() => Promise.all(devices.map((d) => d.close())));

/** The graph with a third of its float32 values rounded, and the values that are their roundings. */
function rounded(graph: Graph, seed: number): { graph: Graph; made: ValueId[] } {
  const stream = new Stream(seed, 'rounding'),
    made: ValueId[] = [];
  let drawn = 0;
  const next = rebuild(graph, (node, to) => {
    to.keep(node);
    for (const v of node.outputs) {
      if (graph.types[v].dtype !== 'float32' || stream.uniform(0, drawn++) > 1 / 3) continue;
      const dtype = stream.uniform(1, drawn) < 0.5 ? 'bfloat16' : 'float16',
        type = to.mapped(v);
      const bits = to.make('cast', [to.map(v)], { dtype }, [{ ...type, dtype }], node.scope, node),
        wide = to.make('cast', [bits], { dtype: 'float32' }, [type], node.scope, node);
      made.push(bits, wide);
      to.replace(v, wide);
    }
  });
  return { graph: verifyGraph(next, ops, 'rounded'), made };
}

async function results(device: Device, graph: Graph, { inputs, states }: RandomGraph): Promise<Map<string, unknown>> {
  const executor = new ProgramExecutor(device),
    found = new Map<string, unknown>();
  for (const i of graph.inputs) if (i.kind === 'state') executor.setState(i.name, graph.types[i.value], states[i.name]);
  const loaded = await loadProgram(executor, compileGraph(graph, device.target));
  const out = await executor.run(loaded, { ...inputs, commit: Int32Array.of(1) });
  for (const [name, t] of Object.entries(out)) if (!name.startsWith('also ')) found.set(name, t.data);
  for (const name of Object.keys(states)) found.set(name, executor.peekState(name).data);
  executor.release(loaded);
  executor.removeStates(Object.keys(states));
  return found;
}

test(`${GRAPHS} random graphs with random roundings have the same bits, whatever is stored`, async (t) => {
  if (noCompiler) t.diagnostic(`native: ${noCompiler}`);
  let roundings = 0,
    narrower = 0;
  for (let seed = 0; seed < GRAPHS; seed++) {
    const random = randomGraph(seed, 24),
      { graph, made } = rounded(random.graph, seed),
      all = { ...graph, outputs: [...graph.outputs, ...made.map((value, i) => ({ name: `also ${i}`, value }))] };
    roundings += made.length / 2;
    const want = await results(devices[0], all, random);
    for (const device of devices)
      for (const [what, one] of [
        ['as it is', graph],
        ['with all roundings as outputs', all],
      ] as const)
        assert.deepEqual(await results(device, one, random), want, `graph ${seed} on ${device.info.name}, ${what}`);
    const { program } = compileGraph(graph, devices[0].target);
    narrower += program.tensors.filter((x) => x.slab === 'arena' && x.type.dtype.endsWith('16')).length;
  }
  assert.ok(roundings > 4 * GRAPHS && narrower > 0, `${roundings} roundings, ${narrower} values stored in 16 bits`);
});
