// Random graphs are compiled and run: in several runs one after the other, the native device computes in every state
// and output what the reference computes. The verifier of plans notices faults that the test inserts.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { VerifyError } from '../../src/base/errors.ts';
import { NativeDevice } from '../../src/device/native/native.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { compileGraph } from '../../src/pipeline.ts';
import type { Program } from '../../src/plan/program.ts';
import { verifyProgram } from '../../src/plan/verify.ts';
import type { Executor, Runnable } from '../../src/run/executor.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { ReferenceExecutor } from '../../src/run/reference.ts';
import { PoisonedDevice } from '../conformance/poisoned.ts';
import { randomGraph, type RandomGraph } from '../support/random-graph.ts';
import { noCompiler } from '../support/toy.ts';

const GRAPHS = 24;
const device = noCompiler ? null : await NativeDevice.open(2);
after(() => device?.close());

const types = (graph: Graph) =>
  new Map(graph.inputs.filter((i) => i.kind === 'state').map((i) => [i.name, graph.types[i.value]]));

async function results<R extends Runnable>(
  executor: Executor<R>,
  load: () => R,
  { graph, inputs, states }: RandomGraph,
): Promise<Map<string, ArrayLike<number>>> {
  for (const [name, type] of types(graph)) executor.setState(name, type, states[name]);
  const runnable = load(),
    found = new Map<string, ArrayLike<number>>();
  for (let run = 0; run < 3; run++) {
    // In the second run, guarded updates are skipped: the states do not change.
    const out = await executor.run(runnable, { ...inputs, commit: Int32Array.of(run === 1 ? 0 : 1) });
    for (const [name, t] of Object.entries(out)) found.set(`${name} of run ${run}`, t.data);
    for (const name of types(graph).keys()) found.set(`${name} after run ${run}`, executor.peekState(name).data);
  }
  return found;
}

function assertClose(
  got: ReadonlyMap<string, ArrayLike<number>>,
  want: ReadonlyMap<string, ArrayLike<number>>,
  label: string,
): void {
  for (const [name, b] of want) {
    const a = got.get(name) ?? [];
    assert.equal(a.length, b.length, `${label}: ${name}`);
    const scale = Math.max(1e-3, ...Array.from(b, Math.abs));
    for (let i = 0; i < b.length; i++)
      assert.ok(Math.abs(a[i] - b[i]) < 2e-4 * scale, `${label}: ${name}[${i}] is ${a[i]}, the reference has ${b[i]}`);
  }
}

test(`${GRAPHS} random graphs give the results of the reference`, { skip: noCompiler }, async () => {
  if (!device) return;
  const graphs = Array.from({ length: GRAPHS }, (_, seed) => randomGraph(seed, 8 + seed * 2));
  const compiled = graphs.map((g) => compileGraph(g.graph, device.target));
  await device.compile(compiled.flatMap((c) => c.kernels));
  for (const [seed, g] of graphs.entries()) {
    const reference = new ReferenceExecutor(),
      native = new ProgramExecutor(new PoisonedDevice(device));
    const want = await results(reference, () => reference.load(g.graph), g);
    const got = await results(
      native,
      () => native.load(JSON.parse(JSON.stringify(compiled[seed].program)) as Program),
      g,
    );
    assertClose(got, want, `graph ${seed}`);
    await native.close();
  }
});

test('passes do not change the results of a graph', async () => {
  for (let seed = 100; seed < 140; seed++) {
    const g = randomGraph(seed, 30),
      plain = new ReferenceExecutor(),
      optimised = new ReferenceExecutor();
    const want = await results(plain, () => plain.load(g.graph), g);
    const graph = compileGraph(g.graph).graph;
    assertClose(await results(optimised, () => optimised.load(graph), g), want, `graph ${seed}`);
  }
});

test('the verifier refuses programs with an inserted fault', () => {
  let faults = 0,
    noticed = 0;
  for (let seed = 0; seed < 20; seed++) {
    const { program } = compileGraph(randomGraph(seed, 30).graph);
    const { steps } = program;
    for (let i = 1; i < steps.length; i++) {
      const reads = (n: number): number[] => steps[n].buffers.filter((_, j) => !steps[n].writes[j]);
      const writes = (n: number): number[] => steps[n].buffers.filter((_, j) => steps[n].writes[j]);
      if (!reads(i).some((t) => writes(i - 1).includes(t))) continue;
      const swapped = [...steps];
      swapped[i] = { ...steps[i - 1] };
      swapped[i - 1] = { ...steps[i] };
      const merged = steps.map((s, n) => (n === i ? { ...s, barrier: false } : s));
      for (const faulty of [swapped, merged]) {
        faults++;
        try {
          verifyProgram({ ...program, steps: faulty });
        } catch (error) {
          if (error instanceof VerifyError) noticed++;
        }
      }
    }
    const arena = program.tensors.filter((t) => t.slab === 'arena' && t.bytes > 0);
    if (arena.length === 0) continue;
    faults++;
    assert.throws(
      () =>
        verifyProgram({
          ...program,
          tensors: program.tensors.map((t) => (t === arena[0] ? { ...t, offset: t.offset + 4 } : t)),
        }),
      VerifyError,
    );
    assert.throws(
      () => verifyProgram({ ...program, slabs: { ...program.slabs, arena: program.slabs.arena - 256 } }),
      VerifyError,
    );
    noticed++;
  }
  assert.ok(faults > 50);
  assert.equal(noticed, faults);
});
