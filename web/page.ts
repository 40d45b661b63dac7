// The playground's page: it starts the worker, sends it the reader's choices, and draws its events with parts of the
// dashboard.
import { Chart } from '../src/dash/page/charts.ts';
import { drawDecisions, hideTip, marksOf } from '../src/dash/page/decisions.ts';
import { byId, el, setText } from '../src/dash/page/dom.ts';
import { count, fixed, outcome } from '../src/dash/page/format.ts';
import { Heat } from '../src/dash/page/heat.ts';
import { Run } from '../src/dash/page/run.ts';
import { onTheme, theme } from '../src/dash/page/theme.ts';
import type { View } from '../src/dash/page/view.ts';
import { drawPicture, drawTarget, placeSpot } from './maps.ts';
import type { Overflow } from './model.ts';
import type { Spot } from './plane.ts';
import type { WorkerMessage, Picture, PageMessage } from './protocol.ts';

const DRAW_MS = 100, // time between two drawings
  WINDOW = 1500; // number of steps that the charts show
const SEED = 1;
const worker = new Worker('./worker.js', { type: 'module' });
const tell = (wish: PageMessage): void => {
  worker.postMessage(wish);
};

const view: View = { axis: 'step', range: null, last: WINDOW, smoothing: 0.9, runs: [], run: new Run('') };
let number = 0,
  running = true,
  spot: Spot = { x: 0.5, y: -0.5 },
  picture: Picture | null = null,
  due = false,
  failed = '';

const nothing = (): void => undefined;
const loss = new Chart({ title: 'Loss', format: (x) => x.toPrecision(2), zoom: nothing, leads: true, height: 190 });
const beyond = new Chart({ title: 'Choices beyond capacity', format: count, zoom: nothing, height: 190 });
const heat = new Heat('moe');
byId('curves').append(loss.element, beyond.element);
byId('bands').append(heat.element);

const select = (id: string): string => byId<HTMLSelectElement>(id).value;
const skew = (): number => Number(byId<HTMLInputElement>('skew').value) / 100;

function start(): void {
  number++;
  failed = '';
  picture = null;
  view.run = new Run(`run ${number}`);
  view.runs = [view.run];
  byId('decisions').replaceChildren(el('p', { class: 'empty' }, 'No decision yet: the rule runs every 16 steps.'));
  tell({ start: { overflow: select('overflow') as Overflow, seed: SEED + number - 1 } });
  if (number > 1)
    setText(
      byId('spoken'),
      `Training restarted${running ? '' : ', paused'}: choices beyond capacity are ` +
        (select('overflow') === 'drop' ? 'dropped' : 'spilled'),
    );
  redraw();
}

function redraw(): void {
  if (due || document.hidden) return;
  due = true;
  setTimeout(() => {
    requestAnimationFrame(() => {
      due = false;
      draw();
    });
  }, DRAW_MS);
}

function draw(): void {
  const { run } = view,
    { series, over } = theme(),
    marks = marksOf(run, view),
    layer = run.layers.get('moe');
  loss.draw(
    [
      { label: 'each step', xs: run.step, ys: run.loss, colour: `${series[0]}55`, width: 1 },
      { label: 'smoothed', xs: run.step, ys: run.smooth.upTo(view.smoothing), colour: series[0], width: 2 },
    ],
    view,
    marks,
  );
  const lost = layer?.stats.get('dropped') ?? layer?.stats.get('spilled');
  if (lost)
    beyond.draw(
      [
        {
          label: select('overflow') === 'drop' ? 'dropped' : 'spilled',
          xs: run.step,
          ys: lost,
          colour: over,
          width: 1.5,
        },
      ],
      view,
      marks,
    );
  if (layer) heat.draw(layer, view);
  if (run.recompiles.length > 0) drawDecisions(run);
  if (picture) drawPicture(picture);
  head(run);
  // Tests read these values.
  Object.assign(document.body.dataset, {
    run: run.name,
    first: String(run.loss.at(0)),
    step: String(run.step.last || 0),
    loss: String(run.smooth.upTo(view.smoothing).last),
    recompilations: String(run.recompiles.length),
  });
}

let heard = 0;
function head(run: Run): void {
  const { start: started } = run,
    kept = run.recompiles.filter((r) => r.kept).length;
  byId('dot').className = failed ? 'failed' : running ? 'running' : 'waiting';
  setText(
    byId('status'),
    failed
      ? `failed: ${failed}`
      : `${running ? 'learning' : 'paused'}, step ${run.step.last || 0}` +
          (number > 1 && !(run.step.last > 0) ? ': restarted' : ''),
  );
  setText(byId('about'), started ? `${count(started.parameters)} parameters on ${started.device}` : '');
  const rows: [string, string, string][] = [
    ['Loss', fixed(run.smooth.upTo(view.smoothing).last), 'on the training points'],
    ['Accuracy', picture ? `${(100 * picture.right).toFixed(1)}%` : '–', 'on the whole plane'],
    ['Time per step', run.rate.length > 0 ? `${(512_000 / run.rate.last).toFixed(1)} ms` : '–', '512 points'],
    [
      'Recompilations',
      String(kept),
      run.recompiles.length === kept ? 'kept' : `kept, ${run.recompiles.length - kept} not`,
    ],
  ];
  const list = byId('tiles');
  if (list.childElementCount !== rows.length)
    list.replaceChildren(
      ...rows.map(([name]) => el('div', {}, el('dt', {}, name), el('dd'), el('dd', { class: 'more' }))),
    );
  rows.forEach(([, value, more], i) => {
    setText(list.children[i].children[1], value);
    setText(list.children[i].children[2], more);
  });
  const last = run.recompiles.at(-1);
  if (last && run.recompiles.length !== heard) {
    setText(byId('spoken'), `Recompilation by ${last.rule}: ${outcome(last)}`);
    byId('decisions').scrollTop = byId('decisions').scrollHeight;
  }
  heard = run.recompiles.length;
}

worker.onmessage = ({ data }: MessageEvent<WorkerMessage>) => {
  if (data.run !== number) return;
  if ('events' in data) for (const e of data.events) view.run.add({ ...e, time: Date.now() / 1000 });
  else if ('picture' in data) picture = data.picture;
  else failed = data.failed;
  redraw();
};
worker.onerror = ({ message }) => {
  failed = message || 'the worker could not be loaded';
  redraw();
};

function aim(): void {
  const share = skew();
  setText(
    byId('skew-is'),
    share === 0 ? 'points from everywhere' : `${Math.round(100 * share)}% of the points from the ring`,
  );
  byId<HTMLInputElement>('skew').setAttribute('aria-valuetext', byId('skew-is').textContent);
  setText(byId('force'), share === 0 ? 'Force skew' : 'End the skew');
  placeSpot(spot, share);
  tell({ skew: share, spot });
}

const STEP = 0.1,
  MOVES: Readonly<Record<string, readonly [number, number]>> = {
    ArrowLeft: [-STEP, 0],
    ArrowRight: [STEP, 0],
    ArrowUp: [0, -STEP],
    ArrowDown: [0, STEP],
  };
const inside = (v: number): number => Math.max(-0.95, Math.min(0.95, v));

function controls(): void {
  byId('skew').addEventListener('input', aim);
  byId('force').addEventListener('click', () => {
    byId<HTMLInputElement>('skew').value = skew() === 0 ? '90' : '0';
    aim();
  });
  for (const map of document.querySelectorAll<HTMLElement>('.aim')) {
    map.addEventListener('pointerdown', (e) => {
      const box = map.getBoundingClientRect();
      spot = {
        x: inside((2 * (e.clientX - box.left)) / box.width - 1),
        y: inside((2 * (e.clientY - box.top)) / box.height - 1),
      };
      aim();
    });
    map.addEventListener('keydown', (e) => {
      if (!Object.hasOwn(MOVES, e.key)) return;
      e.preventDefault();
      const [x, y] = MOVES[e.key];
      spot = { x: inside(spot.x + x), y: inside(spot.y + y) };
      aim();
    });
  }
  const go = (): void => {
    tell({ running: running && !document.hidden, speed: select('speed') === 'full' ? 'full' : 'calm' });
  };
  byId('pause').addEventListener('click', () => {
    running = !running;
    setText(byId('pause'), running ? 'Pause' : 'Continue');
    go();
    redraw();
  });
  byId('speed').addEventListener('change', go);
  byId('overflow').addEventListener('change', start);
  byId('again').addEventListener('click', start);
  byId('controls').addEventListener('submit', (e) => {
    e.preventDefault();
  });
  // While the page is hidden, training pauses.
  document.addEventListener('visibilitychange', () => {
    go();
    redraw();
  });
  document.addEventListener('keydown', (e) => {
    if (e.key === 'Escape') hideTip();
  });
  addEventListener('resize', redraw, { passive: true });
  onTheme(() => {
    drawTarget();
    redraw();
  });
}

drawTarget();
controls();
start();
aim();
