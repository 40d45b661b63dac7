// DynaMoE's contestants: a layer, the small classifier or the language model, in a process of its own. A style is
// 'native', 'wasm' or 'cuda', followed by one of these: ' eager' (updates fused with gradients), ' dense' (a dense
// network with
// the same active FLOPs), ' products' (only the layer's matrix products, with equal loads), ' bank' (for classifiers),
// ' balanced' (without the skew of the work), ' bfloat16-weights' (a layer that stores activations and weights in
// bfloat16).
import { LayerBench, ProductsBench, type LayerWork } from '../../src/bench/layer-work.ts';
import { resident, startPeak } from '../../src/bench/resident.ts';
import { openNative } from '../../src/session/node.ts';
import type { DeviceName } from '../../src/session/platform.ts';
import { openModel } from './our-models.ts';
import { serve, type Answer, type Work } from './protocol.ts';

interface Steps {
  step(): Promise<number>;
  loss(): number;
}

const say = (line: string): void => {
  process.stderr.write(`${line}\n`);
};
let steps: Steps | null = null,
  start = 0,
  threads = 1;

async function open(style: string, work: Work): Promise<Steps> {
  const [device, ...options] = style.split(' ') as [DeviceName, ...string[]],
    eager = options.includes('eager'),
    on = { device, threads, say };
  let loss = NaN;
  start = startPeak();
  if (work.kind === 'layer' && options.includes('products')) {
    const products = await ProductsBench.open(layerWork(work), on);
    return { loss: () => 0, step: () => products.step() };
  }
  if (work.kind === 'layer') {
    const layer = await LayerBench.open(
      {
        ...layerWork(work),
        eager,
        ...(options.includes('bfloat16-weights') && { precision: 'bfloat16-weights' }),
        ...(options.includes('balanced') && { skew: 0 }),
        ...(options.includes('dense') && { experts: 0 }),
      },
      on,
      () => {
        start = startPeak();
      },
    );
    return {
      loss: () => loss,
      async step() {
        const done = await layer.step();
        loss = done.loss;
        return done.ms;
      },
    };
  }
  const { session, batch } = await openModel(work, {
    device,
    say,
    eager,
    bank: options.includes('bank'),
    ...(device !== 'cuda' && { threads }),
  });
  return {
    loss: () => loss,
    async step() {
      const begin = performance.now();
      loss = (await session.step(batch)).loss;
      return performance.now() - begin;
    },
  };
}

function layerWork({ tokens = 1, dModel = 1, dFf = 1, experts = 1, topK = 1, skew = 0, pass }: Work): LayerWork {
  return {
    tokens,
    dModel,
    dFf,
    experts,
    topK,
    pass,
    capacity: 'dropless',
    overflow: 'drop',
    dispatch: 'ragged',
    skew,
    activation: 'relu',
    optimizer: 'sgd',
    eager: false,
  };
}

await serve(async (request): Promise<Answer> => {
  switch (request.do) {
    case 'open':
      threads = request.threads;
      steps = await open(request.style, request.work);
      return { version: `Node ${process.versions.node}` };
    case 'run': {
      const ms: number[] = [];
      for (let i = 0; i < request.steps; i++) ms.push(await steps!.step());
      return { ms, rss: resident().peak - start, loss: steps!.loss() };
    }
    case 'peak': {
      const native = await openNative(threads).catch(() => null),
        gflops = native ? await native.fmaPeak(0.2) : null;
      await native?.close();
      return { gflops };
    }
  }
});
process.exit(0);
