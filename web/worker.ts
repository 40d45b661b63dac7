// The playground's worker: the session trains here, so that the page stays responsive. In: the reader's choices. Out:
// the events that a run's log would contain, and pictures of the learned pattern.
import { compile, loss, optim, type Session } from 'dynamoe/whole';
import { adaptCapacity, type RecompileEvent } from 'dynamoe/recompile';
import { stepEvent } from '../src/train/step-event.ts';
import type { PlanEvent, StartEvent, TrainEvent } from '../src/train/events.ts';
import { Painter, type Overflow } from './model.ts';
import { colourOf, Plane, type Spot } from './plane.ts';
import { SIDE, type WorkerMessage, type Picture, type Speed, type PageMessage } from './protocol.ts';

const POINTS = 512; // batch size
const LR = 5e-3;
const FRAME_MS = 16,
  BUSY_MS = 12; // training time per frame at full speed
const PICTURE_MS = 250;
const post = (news: WorkerMessage): void => {
  self.postMessage(news);
};

let run = 0,
  running = true,
  speed: Speed = 'calm',
  skew = 0,
  spot: Spot = { x: 0.5, y: -0.5 };

self.onmessage = ({ data: wish }: MessageEvent<PageMessage>) => {
  if ('start' in wish) {
    const own = ++run;
    learn(own, wish.start.overflow, wish.start.seed).catch((error: unknown) => {
      post({ run: own, failed: error instanceof Error ? error.message : String(error) });
    });
  } else if ('skew' in wish) ({ skew, spot } = wish);
  else ({ running, speed } = wish);
};

/** Trains until the page starts another run. */
async function learn(own: number, overflow: Overflow, seed: number): Promise<void> {
  const model = new Painter(overflow),
    plane = new Plane(POINTS, seed),
    told: TrainEvent[] = [];
  const session = await compile(model, {
    loss: loss.crossEntropy,
    optimizer: optim.adamW({ lr: LR, weightDecay: 0 }),
    seed,
    threads: threads(),
    events: (e) => {
      told.push(e, ...(e.kept ? [planEvent(session, e)] : []));
    },
  });
  try {
    session.recompile(adaptCapacity());
    told.push(startEvent(session), planEvent(session, null));
    let drawn = -Infinity;
    // The first messages are sent also if training is paused.
    post({ run: own, events: told.splice(0) });
    post({ run: own, picture: await picture(session, model) });
    while (own === run) {
      const frame = performance.now(),
        until = frame + (speed === 'full' ? BUSY_MS : 0);
      if (running) {
        do {
          Object.assign(plane, { skew, spot });
          const batch = plane.batch(),
            from = performance.now(),
            result = await session.step(batch);
          told.push(stepEvent(result, { ms: performance.now() - from, count: POINTS, lr: LR }));
        } while (performance.now() < until);
        post({ run: own, events: told.splice(0) });
        if (performance.now() - drawn > PICTURE_MS) {
          drawn = performance.now();
          post({ run: own, picture: await picture(session, model) });
        }
      }
      await new Promise((resolve) => {
        setTimeout(resolve, Math.max(1, frame + FRAME_MS - performance.now()));
      });
    }
  } finally {
    await session.close();
  }
}

/**
 * Threads need shared memory, which a page has only if it is cross-origin isolated. A model as small as this has enough
 * work for two.
 */
const threads = (): number => (crossOriginIsolated ? Math.min(2, navigator.hardwareConcurrency) : 1);

// [SIDE * SIDE, 2]
const GRID = Float32Array.from(
  { length: 2 * SIDE * SIDE },
  (_, i) => (2 * ((i % 2 === 0 ? (i >> 1) % SIDE : Math.floor((i >> 1) / SIDE)) + 0.5)) / SIDE - 1,
);

async function picture(session: Session, model: Painter): Promise<Picture> {
  const points = SIDE * SIDE;
  const out = await session.runGraph(
    'picture',
    (t) => {
      const { colours, experts } = model.picture(
        t.input('input', 'x', { dtype: 'float32', shape: [points, 2] }),
        points,
      );
      t.output('colours', colours);
      t.output('experts', experts);
    },
    { x: GRID },
  );
  const colours = Uint8Array.from({ length: points }, (_, i) =>
    Math.round(255 * Number(out['colours'].data[2 * i + 1])),
  );
  const right =
    colours.reduce(
      (n, c, i) =>
        n +
        (c > 127 ? 1 : 0) * colourOf(GRID[2 * i], GRID[2 * i + 1]) +
        (c > 127 ? 0 : 1) * (1 - colourOf(GRID[2 * i], GRID[2 * i + 1])),
      0,
    ) / points;
  return { colours, experts: Uint8Array.from({ length: points }, (_, i) => Number(out['experts'].data[2 * i])), right };
}

function startEvent(session: Session): StartEvent {
  const parameters = [...session.named.parameters.values()].reduce(
    (n, { shape }) => n + shape.reduce((a, b) => a * b, 1),
    0,
  );
  return {
    event: 'start',
    version: '',
    config: {},
    device: session.executor.description,
    threads: threads(),
    parameters,
    steps: 0,
    resumed_from: 0,
    out: '',
    unit: 'samples',
    train_samples: 0,
    validation_samples: 0,
  };
}

/** An event for the current plan, from which the page draws capacities. */
function planEvent(session: Session, after: RecompileEvent | null): PlanEvent {
  const { arena, params, optimiser } = session.bytes(),
    { topK, capacity, overflow, dispatch } = session.plan().knobs['moe'];
  return {
    event: 'plan',
    step: session.steps,
    from: after?.effect ?? 1,
    bytes: { arena, io: 0, constants: 0, states: params + optimiser },
    layers: { moe: { topK, capacity, overflow, dispatch } },
  };
}
