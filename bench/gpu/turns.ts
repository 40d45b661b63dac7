// Contestants take turns on one GPU: each in a process of its own, which stays alive, A B C, then C B A, and so on. A
// drift of the clock then affects all alike. Tells the median time of a step of each, and its ratio to the first.
import { join } from 'node:path';
import { median } from '../../src/observe/quantile.ts';
import { Peer, type Command, type Work } from '../compare/protocol.ts';
import { GPU_NAME } from './device.ts';
import { SMALL, tell } from './report.ts';

const PEERS = join(import.meta.dirname, '..', 'compare');

export interface Contestant {
  readonly name: string;
  /** 'ours', or of PyTorch's (bench/compare/peers/torch_peer.py). */
  readonly by: 'ours' | 'torch';
  readonly style: string;
}

const command = ({ by }: Contestant): Command =>
  by === 'ours'
    ? { file: process.execPath, args: ['--conditions=dynamoe-source', join(PEERS, 'ours.ts')] }
    : {
        file: process.env['PYTHON'] ?? 'python3',
        args: [join(PEERS, 'peers', 'torch_peer.py')],
        env: { DYNAMOE_TORCH_DEVICE: 'cuda' },
      };

export interface Turns {
  readonly rounds: number;
  readonly steps: number;
}

/** Runs a work. The first contestant is ours; the others are compared with it. */
export async function takeTurns(
  what: string,
  work: Work,
  contestants: readonly Contestant[],
  { rounds, steps }: Turns,
): Promise<void> {
  const running: { readonly c: Contestant; readonly peer: Peer; readonly ms: number[]; bytes: number }[] = [];
  try {
    for (const c of contestants) {
      if (SMALL && c.by === 'torch') {
        tell({ skip: `${what}, ${c.name}`, why: 'PyTorch is not asked where the GPU is only pretended' });
        continue;
      }
      const peer = new Peer(command(c)),
        style = c.by === 'ours' ? [GPU_NAME, c.style].filter(Boolean).join(' ') : c.style,
        { missing, error, version } = await peer.ask({ do: 'open', style, work, threads: 1 }),
        warm = missing === undefined && error === undefined ? await peer.ask({ do: 'run', steps: 3 }) : {};
      const why = missing ?? error ?? warm.error;
      if (why !== undefined) {
        tell(c.by === 'ours' ? { check: `${what}, ${c.name}`, ok: false, why } : { skip: `${what}, ${c.name}`, why });
        peer.close();
        continue;
      }
      tell({ fact: `${what}, ${c.name}`, is: version ?? '' });
      running.push({ c, peer, ms: [], bytes: 0 });
    }
    for (let round = 0; round < rounds; round++)
      for (const r of round % 2 === 0 ? running : [...running].reverse()) {
        const { ms, rss, loss, error } = await r.peer.ask({ do: 'run', steps });
        if (error !== undefined) tell({ check: `${what}, ${r.c.name}`, ok: false, why: error });
        else if (loss !== undefined && !Number.isFinite(loss))
          tell({ check: `${what}, ${r.c.name}`, ok: false, why: `its loss is ${loss}` });
        r.ms.push(...(ms ?? []));
        r.bytes = Math.max(r.bytes, rss ?? 0);
      }
    const [first] = running;
    for (const { c, ms, bytes } of running) {
      if (ms.length === 0) continue;
      tell({ figure: `${what}, ${c.name}: a step`, value: median(ms), unit: 'ms' });
      if (c.by === 'torch') tell({ figure: `${what}, ${c.name}: memory`, value: bytes / 2 ** 30, unit: 'GiB' });
      if (c !== first.c && first.ms.length > 0)
        tell({ figure: `${what}, ${c.name}: times our step`, value: median(ms) / median(first.ms), unit: '' });
    }
    if (first?.c.by === 'ours') tell({ check: `${what} runs`, ok: first.ms.length > 0 });
  } finally {
    for (const { peer } of running) peer.close();
  }
}
