// The page: receives the logs of runs as server-sent events and draws them.
import { Chart, type Line, type Mark } from './charts.ts';
import { RanksView } from './ranks.ts';
import { drawDecisions, hideTip, marksOf } from './decisions.ts';
import { byId, el, setText, table } from './dom.ts';
import { bytes, count, duration, fixed, outcome } from './format.ts';
import { Heat } from './heat.ts';
import { parsed } from './parse.ts';
import { PlanView } from './plan-view.ts';
import { Run } from './run.ts';
import { onTheme, theme } from './theme.ts';
import type { View } from './view.ts';

const DRAW_MS = 200; // least time between two drawings
const names = (await (await fetch('runs')).json()) as string[];
const view: View = {
  axis: 'step',
  range: null,
  last: null,
  smoothing: 0.9,
  runs: names.map((name) => new Run(name)),
  run: new Run(''),
};
let selected = 0,
  connection = 'connecting',
  due = false,
  drawnAt = -DRAW_MS;

/** Requests a drawing, at most every DRAW_MS; none while the page is hidden. */
function redraw(): void {
  if (due || document.hidden) return;
  due = true;
  setTimeout(
    () => {
      requestAnimationFrame(() => {
        due = false;
        draw();
        drawnAt = performance.now();
        document.body.dataset['drawn'] = String(Number(document.body.dataset['drawn'] ?? 0) + 1);
      });
    },
    Math.max(0, drawnAt + DRAW_MS - performance.now()),
  );
}

const zoom = (range: View['range']): void => {
  const pick = byId<HTMLSelectElement>('window');
  view.range = range;
  if (range === null) view.last = null;
  pick.querySelector<HTMLOptionElement>('[value=zoom]')!.hidden = range === null;
  pick.value = range === null ? 'all' : 'zoom';
  redraw();
};

const nats = (x: number): string => (Math.abs(x) >= 100 || x === 0 ? count(x) : x.toPrecision(3));
const curves = {
  loss: new Chart({ title: 'Loss', format: nats, zoom, leads: true, height: 250 }),
  rate: new Chart({ title: 'Throughput', format: count, zoom, height: 250 }),
  memory: new Chart({ title: 'Memory', format: bytes, zoom }),
  norm: new Chart({ title: 'Gradient norm', format: nats, zoom }),
};
byId('curves').append(...Object.values(curves).map((c) => c.element));
/** Titles of the charts of layer statistics, by name. */
const statCharts = new Map<string, Chart>(),
  heats = new Map<string, Heat>(),
  plan = new PlanView(redraw),
  ranks = new RanksView(byId('ranks'), byId('ranks-hint'), byId('ranks-table'));
const TITLES: Readonly<Record<string, string>> = {
  gate_entropy: 'Gate entropy (nats)',
  dropped: 'Choices dropped in a step',
  spilled: 'Choices spilled in a step',
  second_gate_weight: 'Weight of the second choice',
  agreement: 'Agreement with cached assignments',
};

function draw(): void {
  view.run = view.runs[selected];
  const { run, runs } = view,
    marks = marksOf(run, view),
    { series } = theme(),
    many = runs.length > 1;
  head(run);
  tiles(run);
  const of = (lines: (r: Run, colour: string, name: string) => Line[]): Line[] =>
    runs.flatMap((r, i) => lines(r, series[i % series.length], many ? `${r.name} ` : ''));
  curves.loss.draw(
    of((r, colour, name) => [
      ...(many ? [] : [{ label: 'each step', xs: r[view.axis], ys: r.loss, colour: `${colour}55`, width: 1 }]),
      { label: `${name}training`, xs: r[view.axis], ys: r.smooth.upTo(view.smoothing), colour, width: 2 },
      {
        label: `${name}validation`,
        xs: view.axis === 'step' ? r.evalStep : r.evalElapsed,
        ys: r.evalLoss,
        colour: many ? colour : series[1],
        width: 1.5,
        dash: [6, 4],
        points: true,
      },
    ]),
    view,
    marks,
    run.start?.unit === 'tokens' ? 'nats a token' : '',
  );
  curves.rate.draw(
    of((r, colour, name) => [
      ...(many ? [] : [{ label: 'each step', xs: r[view.axis], ys: r.rate, colour: `${colour}55`, width: 1 }]),
      {
        label: `${name}${r.start?.unit ?? 'tokens'}/s`,
        xs: r[view.axis],
        ys: r.smoothRate.upTo(view.smoothing),
        colour,
        width: 2,
      },
    ]),
    view,
    marks,
    `${run.start?.unit ?? 'tokens'} a second`,
  );
  curves.memory.draw(
    of((r, colour, name) => [
      { label: `${name}process, resident`, xs: r[view.axis], ys: r.rss, colour, width: 2 },
      {
        label: `${name}planned`,
        xs: r[view.axis],
        ys: r.planned,
        colour: many ? colour : series[2],
        width: 2,
        dash: many ? [6, 4] : [],
      },
    ]),
    view,
    marks,
    `peak ${bytes(run.peak)}`,
  );
  curves.norm.draw(
    of((r, colour, name) => [{ label: `${name}norm`, xs: r[view.axis], ys: r.norm, colour, width: 1.25 }]),
    view,
    marks,
  );
  layers(run, marks);
  drawDecisions(run);
  plan.draw(run);
  ranks.draw(run);
  if (byId<HTMLDetailsElement>('curve-table').open) curveTable(run);
}

function head(run: Run): void {
  const { start, status } = run,
    steps = run.step.last || 0,
    total = start?.steps ?? 0,
    live = connection === 'live';
  setText(byId('name'), view.runs.length > 1 ? `${view.runs.length} runs` : run.name);
  document.title = `${total > 0 ? `${Math.round((steps / total) * 100)}% ` : ''}${run.name} – DynaMoE`;
  const text = {
    waiting: 'waiting for the first step',
    running: live
      ? 'running'
      : connection === 'ended'
        ? 'the server of this page has ended; this is what it sent before'
        : connection,
    done: `done${run.seconds === null ? '' : ` in ${duration(run.seconds)}`}`,
    stopped: 'stopped; it can be continued',
    failed: `failed: ${run.error ?? ''}`,
  }[status];
  const lost = run.gone ? `its folder is gone; ${status === 'running' ? 'this is what was read before' : text}` : text;
  const done = `${Number.isFinite(steps) ? steps : 0}${total > 0 ? ` of ${total}` : ''}`,
    trouble = !live && status !== 'running' && connection !== 'ended' ? ` (${connection})` : '';
  setText(byId('status'), `${lost}, step ${done}${trouble}`);
  document.body.dataset['connection'] = connection;
  // Green only if the run is seen to be running.
  byId('dot').className = run.gone ? 'failed' : status === 'running' && !live ? 'waiting' : status;
  byId<HTMLProgressElement>('progress').value = total > 0 && steps > 0 ? steps / total : 0;
  setText(byId('about'), start ? `${count(start.parameters)} parameters, ${start.device}` : '');
  announce(`${run.name}: ${lost.split(',')[0]}`, run);
}

let announced = '',
  heard = 0;
/** Announces the run's status and each decision to screen readers, but not every step. */
function announce(state: string, run: Run): void {
  const fresh = run.recompiles.length > heard ? run.recompiles.at(-1) : undefined;
  heard = run.recompiles.length;
  const text = fresh ? `Recompilation by ${fresh.rule}: ${outcome(fresh)}` : state;
  if (fresh || state !== announced) setText(byId('spoken'), text);
  announced = state;
}

const RECENT = 50; // steps

/** Mean time of a step over the most recent steps, in ms; null before the second step. */
function recentMs({ elapsed, step: { length } }: Run): number | null {
  if (length < 2) return null;
  return ((elapsed.last - elapsed.at(Math.max(0, length - RECENT))) * 1000) / (Math.min(RECENT, length) - 1);
}

function tiles(run: Run): void {
  const best = Array.from({ length: run.evalLoss.length }, (_, i) => run.evalLoss.at(i)).filter(Number.isFinite),
    last = run.plans.at(-1)?.bytes,
    kept = run.recompiles.filter((r) => r.kept).length;
  const rows: [string, string, string][] = [
    ['Training loss', fixed(run.smooth.upTo(view.smoothing).last), `last step ${fixed(run.loss.last)}`],
    ['Validation loss', fixed(best.at(-1) ?? null), best.length > 0 ? `best ${fixed(Math.min(...best))}` : 'none yet'],
    [
      `${run.start?.unit === 'samples' ? 'Samples' : 'Tokens'} a second`,
      count(run.rate.last),
      `${fixed(recentMs(run), 1)} ms a step`,
    ],
    [
      'Planned memory',
      last ? bytes(last.arena + last.io + last.constants + last.states) : '–',
      last ? `arena ${bytes(last.arena)}` : '',
    ],
    ['Process', bytes(run.rss.last), `peak ${bytes(run.peak)}`],
    [
      'Recompilations',
      String(kept),
      run.recompiles.length === kept ? 'kept' : `kept, ${run.recompiles.length - kept} not`,
    ],
    [
      'Learning rate',
      !Number.isFinite(run.lr)
        ? '–'
        : run.lr >= 1e-3 || run.lr === 0
          ? String(Number(run.lr.toPrecision(3)))
          : run.lr.toExponential(2),
      `time ${duration(run.elapsed.last)}`,
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
}

function layers(run: Run, marks: readonly Mark[]): void {
  const into = byId('layers'),
    paths = [...run.layers.keys()].filter((path) => run.layers.get(path)!.load.length > 0);
  byId('experts').hidden = paths.length === 0 && run.step.length > 0;
  if (into.dataset['paths'] !== JSON.stringify(paths)) {
    into.dataset['paths'] = JSON.stringify(paths);
    for (const path of paths) if (!heats.has(path)) heats.set(path, new Heat(path));
    into.replaceChildren(...paths.map((path) => heats.get(path)!.element));
  }
  // Draws only layers that are visible or nearly so: a model may have a hundred.
  for (const path of paths) {
    const heat = heats.get(path)!,
      { top, bottom } = heat.element.getBoundingClientRect();
    if (bottom > -600 && top < window.innerHeight + 600) heat.draw(run.layers.get(path)!, view);
  }
  const shares = paths.map((path) => heats.get(path)!.top);
  if (shares.length > 0) setText(byId('ramp-top'), `${Math.max(...shares).toFixed(1)} times the even share`);
  const lines = new Map<string, Line[]>(),
    { series } = theme();
  paths.forEach((path, i) => {
    for (const [name, ys] of run.layers.get(path)!.stats)
      lines.set(name, [
        ...(lines.get(name) ?? []),
        { label: path, xs: run[view.axis], ys, colour: series[i % series.length], width: 1.5 },
      ]);
  });
  const box = byId('layer-curves'),
    order = ['dropped', 'spilled', 'gate_entropy', 'agreement', 'second_gate_weight'];
  const seen = [...lines.keys()].sort((a, b) => ((order.indexOf(a) + 99) % 99) - ((order.indexOf(b) + 99) % 99));
  for (const name of seen)
    if (!statCharts.has(name))
      statCharts.set(
        name,
        new Chart({
          title: TITLES[name] ?? name.replaceAll('_', ' '),
          format: name === 'dropped' || name === 'spilled' ? count : nats,
          zoom,
        }),
      );
  if (box.dataset['names'] !== seen.join()) {
    box.dataset['names'] = seen.join();
    box.replaceChildren(...seen.map((name) => statCharts.get(name)!.element));
  }
  for (const name of seen) statCharts.get(name)!.draw(lines.get(name)!, view, marks);
}

function curveTable(run: Run): void {
  const rows = Math.min(20, run.step.length),
    at = Array.from({ length: rows }, (_, i) => Math.round((i * (run.step.length - 1)) / Math.max(1, rows - 1)));
  const smooth = run.smooth.upTo(view.smoothing),
    validations = new Map(
      Array.from({ length: run.evalStep.length }, (_, i) => [run.evalStep.at(i), run.evalLoss.at(i)]),
    );
  byId('curve-table')
    .querySelector('.scroll')!
    .replaceChildren(
      table(
        `${rows} of ${run.step.length} steps`,
        [
          'step',
          'seconds',
          'loss',
          'smoothed',
          'validation',
          `${run.start?.unit ?? 'tokens'}/s`,
          'gradient norm',
          'resident',
        ],
        at.map((i) => [
          String(run.step.at(i)),
          run.elapsed.at(i).toFixed(1),
          fixed(run.loss.at(i), 4),
          fixed(smooth.at(i), 4),
          fixed(validations.get(run.step.at(i)) ?? null, 4),
          count(run.rate.at(i)),
          fixed(run.norm.at(i)),
          bytes(run.rss.at(i)),
        ]),
      ),
    );
}

function controls(): void {
  const pick = byId<HTMLSelectElement>('run'),
    axis = byId<HTMLSelectElement>('axis'),
    last = byId<HTMLSelectElement>('window'),
    smoothing = byId<HTMLInputElement>('smoothing');
  byId('pick').hidden = names.length < 2;
  pick.replaceChildren(...names.map((name, i) => el('option', { value: String(i) }, name)));
  pick.addEventListener('change', () => {
    selected = Number(pick.value);
    plan.reset();
    redraw();
  });
  axis.addEventListener('change', () => {
    view.axis = axis.value === 'elapsed' ? 'elapsed' : 'step';
    zoom(null);
  });
  last.addEventListener('change', () => {
    const { value } = last;
    zoom(null);
    last.value = value;
    view.last = value === 'all' ? null : Number(value);
  });
  smoothing.addEventListener('input', () => {
    view.smoothing = Number(smoothing.value);
    redraw();
  });
  byId('controls').addEventListener('submit', (e) => {
    e.preventDefault();
  });
  byId('curve-table').addEventListener('toggle', redraw);
  document.addEventListener('keydown', (e) => {
    if (e.key === 'Escape') {
      hideTip();
      zoom(null);
    }
  });
  document.addEventListener('visibilitychange', redraw);
  for (const type of ['scroll', 'resize']) addEventListener(type, redraw, { passive: true });
  new ResizeObserver(redraw).observe(byId('main'));
  onTheme(redraw);
}

function connect(): void {
  const events = new EventSource('events');
  events.addEventListener('lines', ({ data }: MessageEvent<string>) => {
    const [first, ...lines] = data.split('\n'),
      { run, reset } = JSON.parse(first) as { run: number; reset: boolean };
    if (reset) view.runs[run] = new Run(names[run]);
    for (const line of lines) {
      const event = parsed(line);
      if (event) view.runs[run].add(event);
    }
    redraw();
  });
  events.addEventListener('gone', ({ data }: MessageEvent<string>) => {
    const { run, gone } = JSON.parse(data) as { run: number; gone: boolean };
    view.runs[run].gone = gone;
    redraw();
  });
  events.addEventListener('open', () => {
    connection = 'live';
    redraw();
  });
  events.addEventListener('error', () => {
    connection = 'the connection is lost; trying again';
    redraw();
  });
  events.addEventListener('bye', () => {
    connection = 'ended';
    events.close();
    redraw();
  });
  // For tests: all existing lines have been received.
  events.addEventListener('ready', () => {
    document.body.dataset['ready'] = 'yes';
    redraw();
  });
}

controls();
connect();
redraw();
