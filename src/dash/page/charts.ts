// Curves over steps or seconds. In: growing series; out: a uPlot chart of the visible part, with the recompilations
// marked on its time axis.
import type uPlot from 'uplot';
import { el } from './dom.ts';
import { thinned, type Column } from './columns.ts';
import { theme } from './theme.ts';
import { extent, type View } from './view.ts';

// The server's copy of uPlot: browsers cannot import packages by name.
const VENDOR = './uPlot.js';
const { default: Plot } = (await import(VENDOR)) as { readonly default: typeof uPlot };

export interface Line {
  readonly label: string;
  readonly xs: Column;
  readonly ys: Column;
  readonly colour: string;
  readonly width?: number;
  readonly dash?: number[];
  /** Whether there are only few values, each of which is drawn as a point. */
  readonly points?: boolean;
}

export interface Mark {
  readonly at: number;
  readonly kept: boolean;
  readonly button: (shown: boolean) => HTMLButtonElement;
}

export interface ChartOptions {
  readonly title: string;
  readonly height?: number;
  readonly format: (value: number) => string;
  readonly zoom: (range: readonly [number, number] | null) => void;
  /** Whether the keyboard can reach the marks of this chart; true for one chart only. */
  readonly leads?: boolean;
}

// Pixels beside the plot: the same for all charts, so that their time axes line up; enough for half of a label of
// seven digits.
export const LEFT = 56,
  RIGHT = 26;

export class Chart {
  readonly element: HTMLElement;
  readonly #body = el('div');
  readonly #sub = el('span', { class: 'sub' });
  readonly #options: ChartOptions;
  #plot: uPlot | null = null;
  #made = '';
  #marks: readonly Mark[] = [];
  #shownMarks = '';

  constructor(options: ChartOptions) {
    this.#options = options;
    this.element = el(
      'figure',
      { class: 'card', role: 'group', 'aria-label': options.title },
      el('div', { class: 'head' }, el('h3', {}, options.title), this.#sub),
      this.#body,
    );
  }

  draw(lines: readonly Line[], view: View, marks: readonly Mark[], sub = ''): void {
    const width = Math.floor(this.#body.clientWidth),
      made = JSON.stringify([lines.map((l) => [l.label, l.colour, l.width, l.dash]), theme().text, view.axis]);
    if (width < 50) return;
    this.#sub.textContent = sub;
    this.#marks = marks;
    if (made !== this.#made) {
      this.#plot?.destroy();
      this.#plot = this.#build(lines, view, width);
      this.#made = made;
      this.#shownMarks = '';
    }
    const plot = this.#plot!,
      [min, max] = extent(view);
    if (plot.width !== width) plot.setSize({ width, height: this.#options.height ?? 210 });
    plot.batch(() => {
      plot.setData(data(lines, min, max, Math.max(100, width - LEFT - RIGHT)) as uPlot.AlignedData, false);
      plot.setScale('x', { min, max: max > min ? max : min + 1 });
    });
    this.#placeMarks(plot, min, max);
  }

  #build(lines: readonly Line[], view: View, width: number): uPlot {
    const { text, faint, grid, mark } = theme(),
      { format, zoom, height = 210 } = this.#options,
      font = '11px system-ui, sans-serif';
    const axis = { stroke: faint, font, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 } };
    const plot = new Plot(
      {
        width,
        height,
        padding: [10, RIGHT, 0, 0],
        cursor: {
          sync: { key: 'dynamoe' },
          drag: { x: true, y: false, setScale: false },
          focus: { prox: 24 },
          bind: {
            dblclick: () => () => {
              zoom(null);
              return null;
            },
          },
        },
        scales: { x: { time: false } },
        axes: [
          { ...axis, size: 30, values: (_, values) => values.map((v) => String(v)) },
          { ...axis, size: LEFT, values: (_, values) => values.map(format) },
        ],
        series: [
          {
            label: view.axis === 'step' ? 'step' : 'seconds',
            value: (_, x) => (x === null ? '–' : view.axis === 'step' ? String(Math.round(x)) : x.toFixed(1)),
          },
          ...lines.map((l) => ({
            label: l.label,
            stroke: l.colour,
            width: l.width ?? 1.5,
            spanGaps: true,
            value: (_: uPlot, y: number | null) => (y === null ? '–' : format(y)),
            points: { show: l.points ?? false, size: 7, fill: l.colour },
            ...(l.dash && { dash: l.dash }),
          })),
        ],
        hooks: {
          setSelect: [
            (u) => {
              const { left, width: w } = u.select;
              if (w < 6) return;
              u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
              zoom([u.posToVal(left, 'x'), u.posToVal(left + w, 'x')]);
            },
          ],
          draw: [
            (u) => {
              const { ctx, bbox } = u;
              ctx.save();
              ctx.strokeStyle = mark;
              ctx.lineWidth = devicePixelRatio;
              for (const { at, kept } of this.#marks) {
                const x = Math.round(u.valToPos(at, 'x', true));
                if (x < bbox.left || x > bbox.left + bbox.width) continue;
                ctx.setLineDash(kept ? [] : [4 * devicePixelRatio, 3 * devicePixelRatio]);
                ctx.beginPath();
                ctx.moveTo(x, bbox.top);
                ctx.lineTo(x, bbox.top + bbox.height);
                ctx.stroke();
              }
              ctx.restore();
            },
          ],
        },
      },
      [[]],
      this.#body,
    );
    plot.root.style.color = text;
    return plot;
  }

  /**
   * Places the marks, as buttons over the plot. They are created again only if something moved, because one may have
   * the keyboard focus.
   */
  #placeMarks(plot: uPlot, min: number, max: number): void {
    const seen = this.#marks
      .map((m) => ({ m, x: plot.valToPos(m.at, 'x') }))
      .filter(({ m }) => m.at >= min && m.at <= max);
    const key = JSON.stringify(seen.map(({ m }) => [m.at, m.kept]));
    let strip = plot.over.querySelector<HTMLElement>('.marks');
    if (!strip) plot.over.append((strip = el('div', { class: 'marks' })));
    if (key !== this.#shownMarks) {
      strip.replaceChildren(...seen.map(({ m }) => m.button(this.#options.leads ?? false)));
      this.#shownMarks = key;
    }
    seen.forEach(({ x }, i) => {
      (strip.children[i] as HTMLElement).style.left = `${x}px`;
    });
  }
}

/** Series with the same x are reduced together; then all are joined on one axis. */
function data(lines: readonly Line[], min: number, max: number, room: number): (number | null | undefined)[][] {
  const groups = Map.groupBy(lines, (l) => l.xs),
    order = [...groups.values()].flat();
  const tables = [...groups].map(([xs, some]) => {
    // One value beyond each end, so that lines reach the edges.
    const from = Math.max(0, xs.indexOf(min) - 1),
      to = Math.min(xs.length, xs.indexOf(max) + 2);
    const { xs: at, ys } = thinned(
      xs,
      some.map((l) => l.ys),
      from,
      to,
      room,
    );
    return [at, ...ys];
  });
  const joined =
    tables.length === 1 ? tables[0] : (Plot.join(tables as uPlot.AlignedData[]) as (number | null | undefined)[][]);
  return [joined[0] ?? [], ...lines.map((l) => joined[order.indexOf(l) + 1] ?? [])];
}
