// Plans which device holds which experts, for experts spread over devices of several nodes. In: loads of experts and
// the number of places; out: an expert for each place. Experts with high load get replicas, which share their load
// evenly. Experts of one group stay within a node, so that routers that choose among few groups (DeepSeek-V3) send
// tokens to few nodes. The three steps (groups to nodes, replicas within a node, replicas to devices) are those of
// DeepSeek's EPLB; each is greedy, then improved by exchanges.
import { UserError } from '../../base/errors.ts';
import { checkOptions, type KeysOf } from '../../base/options.ts';
import { aList, aNumber, aWhole, needed } from '../../base/kinds.ts';

export interface PlacementOptions {
  /** [layers][experts]: load of each expert, in any unit. */
  readonly loads: readonly (readonly number[])[];
  /** Places for experts in all, at least one for each expert: a multiple of `devices`. */
  readonly replicas: number;
  /**
   * Groups of neighbouring experts that stay within a node; default 1. Where they cannot be divided among nodes evenly,
   * they are not kept together.
   */
  readonly groups?: number;
  /** Default 1. */
  readonly nodes?: number;
  /** In all, a multiple of `nodes`. */
  readonly devices: number;
}

const KEYS: KeysOf<PlacementOptions> = {
  loads: needed(aList),
  replicas: needed(aWhole(1, 2 ** 20)),
  groups: aNumber,
  nodes: aNumber,
  devices: needed(aNumber),
};

/**
 * One layer. Place p is on device floor(p / (replicas / devices)), which is on node floor(device / (devices / nodes)).
 */
export interface Placement {
  /** The expert at each place. */
  readonly experts: readonly number[];
  /** Replicas of each expert. */
  readonly replicas: readonly number[];
  /** Load of each device and of each node, an expert's divided evenly among its replicas. */
  readonly devices: readonly number[];
  readonly nodes: readonly number[];
}

/** Places the experts of each layer. Throws UserError for counts that do not fit together. */
export function placeExperts(options: PlacementOptions): Placement[] {
  checkOptions('placeExperts', options, KEYS);
  const { loads, replicas, groups = 1, nodes = 1, devices } = options,
    experts = loads[0]?.length ?? 0;
  const fail = (what: string, hint: string): never => {
    throw new UserError(`placeExperts: ${what}`, hint);
  };
  for (const [what, n] of Object.entries({ replicas, groups, nodes, devices }))
    if (!Number.isInteger(n) || n < 1)
      fail(`${what} must be a whole number of at least 1, got ${n}`, 'replicas: 16, groups: 4, nodes: 2, devices: 8');
  if (experts === 0 || loads.some((l) => l.length !== experts))
    fail('every layer needs a load for each expert', 'loads: [[90, 132, 40], [20, 107, 104]]');
  if (loads.flat().some((n) => !Number.isFinite(n) || n < 0))
    fail('a load is a number of at least 0', 'count the choices of each expert');
  if (replicas < experts)
    fail(
      `${experts} experts do not fit into ${replicas} places`,
      'replicas counts all places, those of single experts too',
    );
  if (replicas % devices !== 0)
    fail(
      `${replicas} places cannot be divided evenly among ${devices} devices`,
      'replicas must be a multiple of devices',
    );
  if (devices % nodes !== 0)
    fail(`${devices} devices cannot be divided evenly among ${nodes} nodes`, 'devices must be a multiple of nodes');
  if (experts % groups !== 0)
    fail(`${experts} experts cannot be divided into ${groups} groups`, 'groups must divide the number of experts');
  const together = groups % nodes === 0;
  return loads.map((load) => placeLayer(load, replicas, together ? groups : 1, together ? nodes : 1, devices, nodes));
}

function placeLayer(
  load: readonly number[],
  replicas: number,
  groups: number,
  nodes: number,
  devices: number,
  realNodes: number,
): Placement {
  const size = load.length / groups,
    sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);
  const groupLoads = Array.from({ length: groups }, (_, g) => sum(load.slice(g * size, (g + 1) * size)));
  const place = (byNode: readonly (readonly number[])[]): Placement => {
    const places = byNode.flatMap((own) => {
      const experts = own.flatMap((g) => Array.from({ length: size }, (_, i) => g * size + i));
      return placeNode(load, experts, replicas / nodes, devices / nodes);
    });
    const count = load.map((_, e) => places.filter((p) => p === e).length),
      share = (p: number): number => load[p] / count[p];
    const of = (parts: number): number[] =>
      Array.from({ length: parts }, (_, d) =>
        sum(places.slice((d * replicas) / parts, ((d + 1) * replicas) / parts).map(share)),
      );
    return { experts: places, replicas: count, devices: of(devices), nodes: of(realNodes) };
  };
  // Exchanges that balance nodes better may balance devices worse. The balance of devices decides.
  const greedy = heaviestFirst(groupLoads, nodes),
    plain = place(greedy),
    better = place(exchanged(groupLoads, greedy));
  return Math.max(...better.devices) <= Math.max(...plain.devices) ? better : plain;
}

/** Experts of one node: an expert for each of its places, device by device. */
function placeNode(load: readonly number[], experts: readonly number[], places: number, devices: number): number[] {
  const count = new Map(experts.map((e) => [e, 1])),
    share = (e: number): number => load[e] / (count.get(e) ?? 1);
  // Until all places are full, the expert with the highest load per replica gets one more replica: only this lowers the
  // highest load.
  for (let i = experts.length; i < places; i++) {
    const hottest = experts.reduce((a, b) => (share(b) > share(a) ? b : a));
    count.set(hottest, (count.get(hottest) ?? 1) + 1);
  }
  const list = experts.flatMap((e) => new Array<number>(count.get(e) ?? 1).fill(e));
  const weights = list.map(share);
  return exchanged(weights, heaviestFirst(weights, devices, list)).flatMap((own) => own.map((i) => list[i]));
}

/**
 * Puts weights into bins of equal count: the heaviest first, into the lightest bin that is not full, as EPLB does.
 * `kinds`: among equally light bins, the one with the fewest members of the same kind is chosen.
 */
function heaviestFirst(weights: readonly number[], bins: number, kinds?: readonly number[]): number[][] {
  const room = weights.length / bins,
    made = Array.from({ length: bins }, (): number[] => []),
    sums = new Array<number>(bins).fill(0);
  const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a] || a - b);
  const same = (bin: number, i: number): number => (kinds ? made[bin].filter((j) => kinds[j] === kinds[i]).length : 0);
  for (const i of order) {
    const open = [...made.keys()].filter((b) => made[b].length < room);
    const bin = open.reduce((a, b) => (sums[b] < sums[a] || (sums[b] === sums[a] && same(b, i) < same(a, i)) ? b : a));
    made[bin].push(i);
    sums[bin] += weights[i];
  }
  return made;
}

/**
 * Exchanges members between the heaviest bin and another, as long as that lowers the weight of the heavier of the two;
 * each time the exchange that lowers it most.
 */
function exchanged(weights: readonly number[], bins: readonly (readonly number[])[]): number[][] {
  const made = bins.map((b) => [...b]),
    sums = made.map((b) => b.reduce((n, i) => n + weights[i], 0));
  for (;;) {
    const heaviest = sums.reduce((a, s, b) => (s > sums[a] ? b : a), 0);
    let best = { gain: 1e-9 * sums[heaviest], bin: -1, mine: -1, other: -1 };
    made.forEach((own, bin) => {
      if (bin === heaviest) return;
      made[heaviest].forEach((i, mine) => {
        own.forEach((j, other) => {
          const moved = weights[i] - weights[j],
            gain = sums[heaviest] - Math.max(sums[heaviest] - moved, sums[bin] + moved);
          if (gain > best.gain) best = { gain, bin, mine, other };
        });
      });
    });
    if (best.bin < 0) return made;
    const { bin, mine, other } = best,
      [i, j] = [made[heaviest][mine], made[bin][other]];
    made[heaviest][mine] = j;
    made[bin][other] = i;
    sums[heaviest] += weights[j] - weights[i];
    sums[bin] += weights[i] - weights[j];
  }
}
