// The placement planner: compared with the plan that DeepSeek publishes for its example, with a greedy planner on
// random loads, and properties that hold for any loads.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { placeExperts, type PlacementOptions } from '../../../src/recompile/policies/placeExperts.ts';

const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);

/** Loads of the devices and nodes of a plan. experts: the expert at each place. */
function loadsOf(
  load: readonly number[],
  experts: readonly number[],
  devices: number,
  nodes: number,
): { devices: number[]; nodes: number[] } {
  const share = (e: number): number => load[e] / experts.filter((x) => x === e).length;
  const of = (parts: number): number[] =>
    Array.from({ length: parts }, (_, p) =>
      sum(experts.slice((p * experts.length) / parts, ((p + 1) * experts.length) / parts).map(share)),
    );
  return { devices: of(devices), nodes: of(nodes) };
}

// github.com/deepseek-ai/EPLB, README: 2 layers of 12 experts.
const EPLB: PlacementOptions = {
  replicas: 16,
  groups: 4,
  nodes: 2,
  devices: 8,
  loads: [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
  ],
};
const PUBLISHED = [
  [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
  [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
];

test('published example: the largest load of a device, and of a node, is not above the published plan', () => {
  placeExperts(EPLB).forEach((own, layer) => {
    const theirs = loadsOf(EPLB.loads[layer], PUBLISHED[layer], 8, 2);
    assert.deepEqual(loadsOf(EPLB.loads[layer], own.experts, 8, 2), { devices: own.devices, nodes: own.nodes });
    assert.ok(
      Math.max(...own.devices) <= Math.max(...theirs.devices) + 1e-9,
      `devices: ${own.devices.join()} against ${theirs.devices.join()}`,
    );
    assert.ok(
      Math.max(...own.nodes) <= Math.max(...theirs.nodes) + 1e-9,
      `nodes: ${own.nodes.join()} against ${theirs.nodes.join()}`,
    );
  });
});

/** The greedy planner of EPLB: the heaviest item first, into the lightest bin that has room. */
function greedy(weights: readonly number[], bins: number): number[][] {
  const made = Array.from({ length: bins }, (): number[] => []),
    sums = new Array<number>(bins).fill(0);
  for (const i of [...weights.keys()].sort((a, b) => weights[b] - weights[a] || a - b)) {
    const bin = [...sums.keys()]
      .filter((b) => made[b].length < weights.length / bins)
      .reduce((a, b) => (sums[b] < sums[a] ? b : a));
    made[bin].push(i);
    sums[bin] += weights[i];
  }
  return made;
}

function greedyPlan({ loads: [load], replicas, groups = 1, nodes = 1, devices }: PlacementOptions): number[] {
  const size = load.length / groups,
    byNode = greedy(
      Array.from({ length: groups }, (_, g) => sum(load.slice(g * size, (g + 1) * size))),
      nodes,
    );
  return byNode.flatMap((own) => {
    const list = own.flatMap((g) => Array.from({ length: size }, (_, i) => g * size + i)),
      count = new Map(list.map((e) => [e, 1]));
    const share = (e: number): number => load[e] / (count.get(e) ?? 1),
      all = [...list];
    while (all.length < replicas / nodes) {
      const hot = list.reduce((a, b) => (share(b) > share(a) ? b : a));
      count.set(hot, (count.get(hot) ?? 1) + 1);
      all.push(hot);
    }
    return greedy(all.map(share), devices / nodes).flatMap((b) => b.map((i) => all[i]));
  });
}

const shapes = fc.record({
  nodes: fc.constantFrom(1, 2, 4),
  perNode: fc.integer({ min: 1, max: 4 }),
  groupsPerNode: fc.integer({ min: 1, max: 3 }),
  size: fc.integer({ min: 1, max: 6 }),
  more: fc.integer({ min: 0, max: 3 }),
});
const problems = shapes.chain(({ nodes, perNode, groupsPerNode, size, more }) => {
  const groups = nodes * groupsPerNode,
    experts = groups * size,
    devices = nodes * perNode,
    replicas = devices * (Math.ceil(experts / devices) + more);
  return fc.record({
    loads: fc.array(fc.array(fc.integer({ min: 0, max: 1000 }), { minLength: experts, maxLength: experts }), {
      minLength: 1,
      maxLength: 1,
    }),
    replicas: fc.constant(replicas),
    groups: fc.constant(groups),
    nodes: fc.constant(nodes),
    devices: fc.constant(devices),
  });
});

test('random loads: every expert has a place, groups stay within a node, no plan is worse than greedy', () => {
  fc.assert(
    fc.property(problems, (p) => {
      const [own] = placeExperts(p),
        { groups = 1, nodes = 1 } = p,
        experts = p.loads[0].length,
        theirs = loadsOf(p.loads[0], greedyPlan(p), p.devices, nodes);
      assert.equal(own.experts.length, p.replicas);
      assert.ok(own.replicas.every((n) => n >= 1) && sum(own.replicas) === p.replicas);
      for (let g = 0; g < groups; g++) {
        const at = new Set(
          own.experts.flatMap((e, place) =>
            Math.floor(e / (experts / groups)) === g ? [Math.floor(place / (p.replicas / nodes))] : [],
          ),
        );
        assert.equal(at.size, 1, `group ${g}`);
      }
      assert.ok(
        Math.abs(sum(own.devices) - sum(p.loads[0])) < 1e-6 && Math.abs(sum(own.nodes) - sum(p.loads[0])) < 1e-6,
      );
      assert.ok(Math.max(...own.nodes) <= Math.max(...theirs.nodes) + 1e-6);
      assert.ok(
        Math.max(...own.devices) <= Math.max(...theirs.devices) + 1e-6,
        `${own.devices.join()} against ${theirs.devices.join()}`,
      );
    }),
    { numRuns: 500, seed: 7 },
  );
});

test('groups are not kept together if their number is no multiple of the nodes', () => {
  const [own] = placeExperts({ loads: [[9, 1, 1, 1, 1, 1]], groups: 3, nodes: 2, devices: 2, replicas: 8 });
  assert.equal(own.experts.length, 8);
  assert.ok(own.replicas[0] > 1);
  assert.deepEqual(own.nodes, own.devices);
});

test('numbers that allow no placement are refused with clear errors', () => {
  const fine = { loads: [[1, 2]], replicas: 2, devices: 2 };
  const bad: [Partial<PlacementOptions>, RegExp][] = [
    [{ replicas: 1 }, /2 experts do not fit into 1 places/],
    [{ devices: 3, replicas: 4 }, /4 places cannot be divided evenly among 3 devices/],
    [{ nodes: 3 }, /2 devices .* 3 nodes/],
    [{ groups: 3 }, /3 groups/],
    [{ loads: [[1, NaN]] }, /a load is a number/],
    [{ loads: [[1, 2], [1]] }, /a load for each expert/],
    [{ loads: [] }, /a load for each expert/],
    [{ devices: 0 }, /devices must be a whole number/],
  ];
  for (const [more, message] of bad)
    assert.throws(() => placeExperts({ ...fine, ...more }), { name: 'UserError', message });
});
