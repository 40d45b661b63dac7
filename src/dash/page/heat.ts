// The loads of a layer's experts over time, with their capacities. Each expert is a band. Its height and colour show
// its mean share in an interval of steps; load beyond the capacity has its own colour. The last step is shown at the
// right.
import { LEFT, RIGHT } from './charts.ts';
import { el, resizedContext, setText, table } from './dom.ts';
import { count, knob } from './format.ts';
import type { Bin } from './bins.ts';
import type { Layer, Run } from './run.ts';
import { theme } from './theme.ts';
import { extent, place, type View } from './view.ts';

const NOW = 150; // width of the last step's bars in pixels
const BARS_FROM = 640; // smallest width in pixels at which the bars are shown
const AXIS = 18;

interface Drawn {
  readonly bin: Bin;
  readonly left: number;
  readonly right: number;
}

export class Heat {
  readonly element: HTMLElement;
  readonly #canvas = el('canvas');
  readonly #box: HTMLElement;
  readonly #knobs = el('span', { class: 'sub' });
  readonly #readout = el('p', { class: 'readout', 'aria-live': 'polite' });
  readonly #details: HTMLDetailsElement;
  readonly #list = el('div', { class: 'scroll', tabindex: '0', role: 'region' });
  #drawn: readonly Drawn[] = [];
  #row = 20;
  #at: { bin: number; expert: number } | null = null;
  #layer: Layer | null = null;
  #run: Run | null = null;
  /** The highest drawn load, as a multiple of the even share. */
  top = 2;

  constructor(path: string) {
    this.#list.setAttribute('aria-label', `Loads of ${path} as a table`);
    this.#details = el('details', {}, el('summary', {}, 'Loads as a table'), this.#list);
    this.#box = el(
      'div',
      {
        class: 'heat',
        tabindex: '0',
        role: 'application',
        'aria-roledescription': 'heat map',
        'aria-label':
          `Load per expert over time in ${path}. ` + 'Arrow keys move between intervals of steps and between experts.',
      },
      this.#canvas,
    );
    this.element = el(
      'figure',
      { class: 'card', role: 'group', 'aria-label': `Layer ${path}` },
      el('div', { class: 'head' }, el('h3', {}, path), this.#knobs),
      this.#box,
      this.#readout,
      this.#details,
    );
    this.#box.addEventListener('pointermove', (e) => {
      this.#point(e.offsetX, e.offsetY);
    });
    this.#box.addEventListener('pointerleave', () => {
      this.#at = null;
      this.#describeCell();
    });
    this.#box.addEventListener('keydown', (e) => {
      this.#key(e);
    });
    this.#details.addEventListener('toggle', () => {
      this.#fill();
    });
  }

  draw(layer: Layer, view: View): void {
    const width = this.#box.clientWidth;
    if (width < 120) return;
    this.#layer = layer;
    this.#run = view.run;
    const { run } = view,
      experts = layer.bins.experts,
      [min, max] = extent(view),
      now = width >= BARS_FROM ? NOW : 0;
    const row = (this.#row = experts <= 8 ? 20 : experts <= 16 ? 13 : experts <= 64 ? 7 : 4),
      gap = row > 7 ? 3 : 1;
    const plot = width - LEFT - RIGHT - now,
      height = experts * (row + gap) + AXIS,
      context = resizedContext(this.#canvas, width, height),
      colours = theme();
    const x = (at: number): number => LEFT + ((at - min) / Math.max(1e-9, max - min)) * plot;
    const y = (e: number): number => e * (row + gap);
    setText(this.#knobs, layerSettings(run, layer));

    const from = view.axis === 'step' ? min : run.step.at(run.elapsed.indexOf(min)),
      to = view.axis === 'step' ? max : run.step.at(Math.min(run.step.length - 1, run.elapsed.indexOf(max)));
    const bins = layer.bins.within(from, to, Math.max(20, Math.floor(plot / 2)));
    this.#drawn = bins.map((bin) => ({
      bin,
      left: Math.max(LEFT, x(place(view, run, bin.from - (view.axis === 'step' ? 0.5 : 1)))),
      right: Math.min(LEFT + plot, x(place(view, run, bin.to + (view.axis === 'step' ? 0.5 : 0)))),
    }));
    const rows = bins.map((b) => run.rowsAt(layer.path, b.to, b.load)),
      means = bins.map((b) => Math.max(1e-9, b.load.reduce((n, l) => n + l, 0) / experts));
    const peak = Math.max(2, ...bins.map((b, i) => Math.max(...b.load, ...(rows[i] ?? [])) / means[i]));
    this.top = Math.min(peak, 6);

    const [first, final] = [this.#drawn[0], this.#drawn[this.#drawn.length - 1]] as (Drawn | undefined)[];
    context.fillStyle = colours.grid;
    if (first && final)
      for (let e = 0; e < experts; e++) context.fillRect(first.left, y(e), final.right - first.left, row);
    this.#drawn.forEach(({ bin, left, right }, i) => {
      bin.load.forEach((load, e) => {
        const share = load / means[i],
          cap = rows[i]?.[e],
          bottom = y(e) + row,
          high = row * Math.min(1, share / this.top),
          w = Math.max(1, right - left + 0.35);
        context.fillStyle = colours.heat(share, this.top);
        if (row <= 7) context.fillRect(left, y(e), w, row);
        else context.fillRect(left, bottom - high, w, high);
        if (cap === undefined || load <= cap) return;
        const beyond = row <= 7 ? 2 : Math.max(1.5, row * ((load - cap) / means[i] / this.top));
        context.fillStyle = colours.over;
        context.fillRect(left, row <= 7 ? y(e) : bottom - high, w, beyond);
      });
    });
    if (row > 7) this.#capacities(context, rows, means, y);
    this.#axes(context, { x, y, min, max, plot, experts, view });
    for (const r of run.recompiles)
      if (r.effect !== null) this.#mark(context, x(place(view, run, r.effect)), plot, height - AXIS, r.kept);
    if (now > 0 && layer.load.length > 0) this.#last(context, layer, y, LEFT + plot + RIGHT, now - 4);
    this.#describeCell();
    this.#fill();
  }

  /** Draws the capacity line of each band. */
  #capacities(
    context: CanvasRenderingContext2D,
    rows: readonly (readonly number[] | null)[],
    means: readonly number[],
    y: (e: number) => number,
  ): void {
    context.strokeStyle = theme().capacity;
    context.lineWidth = 1.25;
    for (let e = 0; e < (rows.find((r) => r)?.length ?? 0); e++) {
      context.beginPath();
      let last: number | null = null;
      this.#drawn.forEach(({ left, right }, i) => {
        const cap = rows[i]?.[e];
        if (cap === undefined) {
          last = null;
          return;
        }
        // Capacities are whole numbers of rows, so they are not averaged over an interval.
        const at = y(e) + this.#row - this.#row * Math.min(1, cap / means[i] / this.top);
        if (last === null) context.moveTo(left, at);
        else context.lineTo(left, at);
        context.lineTo(right, at);
        last = at;
      });
      context.stroke();
    }
  }

  #axes(
    context: CanvasRenderingContext2D,
    {
      x,
      y,
      min,
      max,
      plot,
      experts,
      view,
    }: {
      x: (at: number) => number;
      y: (e: number) => number;
      min: number;
      max: number;
      plot: number;
      experts: number;
      view: View;
    },
  ): void {
    const { faint } = theme(),
      every = experts <= 16 ? 1 : Math.ceil(experts / 12);
    context.fillStyle = faint;
    context.textAlign = 'right';
    context.textBaseline = 'middle';
    for (let e = 0; e < experts; e += every)
      context.fillText(every === 1 && this.#row > 12 ? `expert ${e}` : String(e), LEFT - 6, y(e) + this.#row / 2);
    context.textBaseline = 'top';
    context.textAlign = 'center';
    const room = Math.max(1, Math.floor(plot / 90)),
      raw = (max - min) / room,
      unit = 10 ** Math.floor(Math.log10(Math.max(raw, 1e-9)));
    const tick = [1, 2, 5, 10].map((n) => n * unit).find((n) => n >= raw) ?? raw,
      step = view.axis === 'step' ? Math.max(1, tick) : tick;
    for (let t = Math.ceil(min / step) * step; t <= max; t += step)
      context.fillText(String(Number(t.toPrecision(6))), x(t), y(experts) + 3);
  }

  #mark(context: CanvasRenderingContext2D, x: number, plot: number, height: number, kept: boolean): void {
    if (x < LEFT || x > LEFT + plot) return;
    context.strokeStyle = theme().mark;
    context.lineWidth = 1.5;
    context.setLineDash(kept ? [] : [4, 3]);
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, height - 2);
    context.stroke();
    context.setLineDash([]);
  }

  /** Draws the bars of the last step, with a tick at the capacity. */
  #last(
    context: CanvasRenderingContext2D,
    { path, load }: Layer,
    y: (e: number) => number,
    left: number,
    width: number,
  ): void {
    const { faint, capacity, over } = theme(),
      run = this.#run!,
      mean = load.reduce((a, b) => a + b, 0) / load.length,
      rows = run.rowsAt(path, run.step.last, load);
    const bars = width - 34,
      scale = bars / (this.top * mean);
    load.forEach((n, e) => {
      const length = Math.min(bars, n * scale),
        cap = rows?.[e],
        tall = Math.max(2, this.#row - 4),
        top = y(e) + (this.#row - tall) / 2;
      context.fillStyle = theme().heat(n / mean, this.top);
      context.fillRect(left, top, length, tall);
      if (cap !== undefined && n > cap) {
        context.fillStyle = over;
        context.fillRect(left + cap * scale, top, Math.max(1.5, Math.min(bars, n * scale) - cap * scale), tall);
      }
      if (cap !== undefined && cap * scale <= bars) {
        context.fillStyle = capacity;
        context.fillRect(left + cap * scale - 0.75, y(e), 1.5, this.#row);
      }
      if (this.#row < 10) return;
      context.fillStyle = faint;
      context.textAlign = 'right';
      context.textBaseline = 'middle';
      context.fillText(String(n), left + width, y(e) + this.#row / 2);
    });
    context.fillStyle = faint;
    context.textAlign = 'left';
    context.textBaseline = 'top';
    context.fillText('last step', left + 14, y(load.length) + 3);
  }

  #point(x: number, y: number): void {
    const bin = this.#drawn.findIndex((d) => x >= d.left && x < d.right),
      expert = Math.floor(y / (this.#row + (this.#row > 7 ? 3 : 1)));
    this.#at = bin < 0 || expert >= (this.#layer?.bins.experts ?? 0) ? null : { bin, expert };
    this.#describeCell();
  }

  #key(event: KeyboardEvent): void {
    const move = (
      { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] } as Readonly<
        Record<string, readonly [number, number]>
      >
    )[event.key] as readonly [number, number] | undefined;
    if (!move || this.#drawn.length === 0 || !this.#layer) return;
    event.preventDefault();
    const { bin, expert } = this.#at ?? { bin: this.#drawn.length - 1, expert: 0 },
      clamp = (n: number, most: number): number => Math.max(0, Math.min(most - 1, n));
    this.#at = {
      bin: clamp(bin + move[0] * (event.shiftKey ? 10 : 1), this.#drawn.length),
      expert: clamp(expert + move[1], this.#layer.bins.experts),
    };
    this.#describeCell();
  }

  /** Describes in words the cell under the pointer, or the one that the arrow keys have selected. */
  #describeCell(): void {
    const bin = this.#drawn[this.#at?.bin ?? -1]?.bin as Bin | undefined,
      e = this.#at?.expert ?? 0;
    if (!bin || !this.#layer || !this.#run)
      return setText(this.#readout, 'Point at a band, or move with the arrow keys.');
    const load = bin.load[e],
      share = load / (bin.load.reduce((a, b) => a + b, 0) / bin.load.length),
      cap = this.#run.rowsAt(this.#layer.path, bin.to, bin.load)?.[e];
    const steps = bin.from === bin.to ? `step ${bin.from}` : `steps ${bin.from} to ${bin.to}`;
    const limit = cap === undefined ? '' : `; capacity ${cap}${load > cap ? `, ${count(load - cap)} beyond it` : ''}`;
    setText(
      this.#readout,
      `${steps}, expert ${e}: ${count(load)} choices${bin.steps > 1 ? ' a step' : ''}, ${share.toFixed(2)} times ` +
        `the even share${limit}`,
    );
  }

  #fill(): void {
    const layer = this.#layer,
      run = this.#run;
    if (!this.#details.open || !layer || !run || layer.load.length === 0) return;
    const mean = layer.load.reduce((a, b) => a + b, 0) / layer.load.length,
      rows = run.rowsAt(layer.path, run.step.last, layer.load),
      bins = layer.bins.within(0, Infinity, 8);
    this.#list.replaceChildren(
      table(
        `Choices of each expert; step ${run.step.last}, and means of stretches before it`,
        [
          'expert',
          'last step',
          'share of the even one',
          'capacity',
          'beyond it',
          ...bins.map((b) => `${b.from}–${b.to}`),
        ],
        layer.load.map((n, e) => [
          String(e),
          String(n),
          (n / mean).toFixed(2),
          rows ? String(rows[e]) : 'any',
          rows ? String(Math.max(0, n - rows[e])) : '0',
          ...bins.map((b) => count(b.load[e])),
        ]),
      ),
    );
  }
}

/** 8 experts, topK 2, capacity 2, spill, padded */
function layerSettings(run: Run, { path, bins }: Layer): string {
  const knobs = run.plans.at(-1)?.layers[path];
  if (!knobs) return `${bins.experts} experts`;
  const { topK, capacity, overflow, dispatch } = knobs;
  return (
    `${bins.experts} experts, top-${String(topK)}, ` +
    `${capacity === 'dropless' ? 'dropless' : `capacity ${knob(capacity)}, ${String(overflow)}`}, ${String(dispatch)}`
  );
}
