// The plan of a run: a map of the arena (address and lifetime of each tensor), the kernels of a step on a time line,
// and a table of the time by module.
import type { PlanEvent } from '../../train/events.ts';
import { byId, el, resizedContext, setText, table } from './dom.ts';
import { bytes, knob } from './format.ts';
import type { Run } from './run.ts';
import { theme } from './theme.ts';

type Program = NonNullable<PlanEvent['program']>;

const KINDS = ['experts', 'routing and dispatch', 'attention', 'optimiser', 'the rest'] as const;
const LEFT = 62,
  BOTTOM = 18,
  MAP = 260,
  TIMES = 46;

/** The kind of a module, from its path: an index into KINDS. */
function kindOf(text: string, layers: readonly string[]): number {
  const layer = layers.find((path) => text === path || text.startsWith(`${path}.`) || text.startsWith(`${path}:`));
  if (layer !== undefined)
    return text.slice(layer.length).startsWith('.experts') || text.slice(layer.length).startsWith('.shared') ? 0 : 1;
  if (/attention/.test(text)) return 2;
  return /^optim\b/.test(text) ? 3 : 4;
}

export class PlanView {
  readonly #pick = el('select');
  readonly #sub = el('p', { class: 'hint' });
  readonly #legend = el('p', { class: 'legend', 'aria-hidden': 'true' });
  readonly #map = el('canvas', { role: 'img' });
  readonly #times = el('canvas', { role: 'img' });
  readonly #mapText = el('p', { class: 'readout' });
  readonly #timesText = el('p', { class: 'readout' });
  readonly #where = el('div', {
    class: 'scroll',
    tabindex: '0',
    role: 'region',
    'aria-label': 'Where a step’s time goes',
  });
  readonly #tensors = el('div', {
    class: 'scroll',
    tabindex: '0',
    role: 'region',
    'aria-label': 'The largest tensors of the arena',
  });
  readonly #body: HTMLElement;
  #chosen: number | null = null;
  #made = '';
  #plan: PlanEvent | null = null;

  constructor(redraw: () => void) {
    const times = el(
      'figure',
      { class: 'card times' },
      el(
        'div',
        { class: 'head' },
        el('h3', {}, 'One step’s kernels, in order'),
        el('span', { class: 'sub' }, 'width: time'),
      ),
      this.#times,
      this.#timesText,
      this.#where,
    );
    const map = el(
      'figure',
      { class: 'card arena' },
      el(
        'div',
        { class: 'head' },
        el('h3', {}, 'Arena'),
        el('span', { class: 'sub' }, 'across: the program’s steps; up: bytes'),
      ),
      this.#map,
      this.#mapText,
      el('details', {}, el('summary', {}, 'The largest tensors as a table'), this.#tensors),
    );
    this.#body = el(
      'div',
      {},
      el('label', {}, 'Plan ', this.#pick),
      this.#sub,
      this.#legend,
      el('div', { class: 'plan-grid' }, map, times),
    );
    this.#pick.addEventListener('change', () => {
      this.#chosen = this.#pick.value === '' ? null : Number(this.#pick.value);
      redraw();
    });
    this.#map.addEventListener('pointermove', (e) => {
      this.#overMap(e.offsetX, e.offsetY);
    });
    this.#times.addEventListener('pointermove', (e) => {
      this.#overTimes(e.offsetX);
    });
    this.#map.addEventListener('pointerleave', () => {
      setText(this.#mapText, this.#hintMap());
    });
    this.#times.addEventListener('pointerleave', () => {
      setText(this.#timesText, this.#hintTimes());
    });
  }

  /** Forgets the plans of the run shown before. */
  reset(): void {
    this.#chosen = null;
  }

  draw(run: Run): void {
    const into = byId('plan-view');
    if (run.plans.length === 0) {
      if (into.dataset['empty'] !== 'yes')
        into.replaceChildren(el('p', { class: 'empty' }, 'The plan appears after the first step that uses it.'));
      into.dataset['empty'] = 'yes';
      return;
    }
    if (into.firstChild !== this.#body) into.replaceChildren(this.#body);
    into.dataset['empty'] = 'no';
    const index = Math.min(this.#chosen ?? run.plans.length - 1, run.plans.length - 1),
      plan = run.plans[index],
      colours = theme();
    const key = JSON.stringify([
      run.name,
      run.plans.length,
      index,
      plan.from,
      this.#map.clientWidth,
      this.#times.clientWidth,
      colours.text,
      devicePixelRatio,
    ]);
    if (key === this.#made) return;
    this.#made = key;
    this.#plan = plan;
    this.#pick.replaceChildren(
      ...run.plans.map((p, i) =>
        el('option', { value: String(i), ...(i === index && { selected: '' }) }, this.#name(run, p, i)),
      ),
      ...[],
    );
    const { arena, io, constants, states } = plan.bytes;
    setText(
      this.#sub,
      `${bytes(arena)} arena, ${bytes(states)} parameters and optimiser, ${bytes(io + constants)} ` +
        `inputs, outputs and constants. ${Object.entries(plan.layers)
          .map(
            ([path, l]) =>
              `${path}: ${l['capacity'] === 'dropless' ? 'dropless' : `capacity ${knob(l['capacity'])}`}, ` +
              `${String(l['dispatch'])}`,
          )
          .slice(0, 4)
          .join(
            '; ',
          )}${Object.keys(plan.layers).length > 4 ? `; and ${Object.keys(plan.layers).length - 4} layers more` : ''}`,
    );
    if (!plan.program) {
      setText(this.#mapText, 'The reference device has no plan.');
      return;
    }
    this.#legend.replaceChildren(
      ...KINDS.flatMap((name, k) => {
        const s = el('span', { class: 'swatch' });
        s.style.background = colours.series[COLOUR[k]];
        return [s, el('span', {}, name)];
      }),
    );
    this.#drawMap(plan, plan.program);
    this.#drawTimes(plan, plan.program);
  }

  #name(run: Run, plan: PlanEvent, i: number): string {
    if (i === 0) return plan.from === 1 ? 'the first' : `from step ${plan.from}`;
    const by = run.recompiles.findLast((r) => r.kept && r.effect !== null && r.effect <= plan.from);
    return `from step ${plan.from}${by ? ` (${by.rule})` : ''}`;
  }

  #drawMap({ bytes: { arena }, layers }: PlanEvent, { arena: blocks, names, steps }: Program): void {
    const width = this.#map.clientWidth;
    if (width < 100) return;
    const context = resizedContext(this.#map, width, MAP),
      { series, faint, grid } = theme(),
      paths = Object.keys(layers),
      high = MAP - BOTTOM;
    const x = (step: number): number => LEFT + (step / steps.length) * (width - LEFT - 4),
      y = (offset: number): number => high - (offset / arena) * (high - 4);
    context.strokeStyle = grid;
    context.fillStyle = faint;
    context.textAlign = 'right';
    context.textBaseline = 'middle';
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      context.beginPath();
      context.moveTo(LEFT, y(part * arena));
      context.lineTo(width - 4, y(part * arena));
      context.stroke();
      context.fillText(bytes(part * arena), LEFT - 6, Math.max(6, y(part * arena)));
    }
    context.textBaseline = 'top';
    context.textAlign = 'center';
    for (const step of new Set([0, 0.25, 0.5, 0.75, 1].map((part) => Math.round(part * steps.length)))) {
      const label = String(step),
        half = context.measureText(label).width / 2;
      context.fillText(label, Math.min(width - half - 1, x(step)), high + 4);
    }
    for (const [offset, size, first, last, name] of blocks) {
      const w = Math.max(1, x(last + 1) - x(first)),
        h = Math.max(0.5, y(offset) - y(offset + size));
      context.fillStyle = series[COLOUR[kindOf(scopeOf(names[name]), paths)]];
      context.globalAlpha = 0.85;
      context.fillRect(x(first), y(offset + size), w, h);
      context.globalAlpha = 1;
      if (h > 3 && w > 3) {
        context.strokeStyle = theme().panel;
        context.lineWidth = 0.5;
        context.strokeRect(x(first), y(offset + size), w, h);
      }
    }
    this.#map.setAttribute(
      'aria-label',
      `Map of the arena: ${blocks.length} tensors in ${bytes(arena)} over ${steps.length} steps`,
    );
    setText(this.#mapText, this.#hintMap());
    const largest = [...blocks].sort((a, b) => b[1] - a[1]).slice(0, 12);
    this.#tensors.replaceChildren(
      table(
        `The ${largest.length} largest of ${blocks.length} tensors`,
        ['tensor', 'bytes', 'offset', 'steps'],
        largest.map(([offset, size, first, last, name]) => [
          names[name],
          bytes(size),
          bytes(offset),
          `${first} to ${last}`,
        ]),
      ),
    );
  }

  #drawTimes({ layers }: PlanEvent, { names, steps }: Program): void {
    const width = this.#times.clientWidth;
    if (width < 100) return;
    const context = resizedContext(this.#times, width, TIMES),
      { series, panel } = theme(),
      paths = Object.keys(layers),
      total = steps.reduce((n, s) => n + s[3], 0);
    let at = 0;
    for (const [, scope, , us] of steps) {
      const left = (at / total) * width,
        w = (us / total) * width;
      context.fillStyle = series[COLOUR[kindOf(names[scope], paths)]];
      context.fillRect(left, 0, w, TIMES);
      if (w > 4) {
        context.fillStyle = panel;
        context.fillRect(left + w - 0.5, 0, 0.5, TIMES);
      }
      at += us;
    }
    this.#times.setAttribute(
      'aria-label',
      `One step’s ${steps.length} kernels in order, ${(total / 1000).toFixed(1)} ms; the table below sums them ` +
        'by module',
    );
    setText(this.#timesText, this.#hintTimes());
    const groups = new Map<string, { us: number; n: number; kind: number }>();
    for (const [ops, scope, , us] of steps) {
      // blocks.0.moe.experts and blocks.3.moe.experts are summed in one row, because layers of a kind cost the same.
      const name = `${names[scope].replace(/\b\d+\b/g, '*') || 'loss'}: ${names[ops]}`,
        group = groups.get(name) ?? { us: 0, n: 0, kind: kindOf(names[scope], paths) };
      groups.set(name, { ...group, us: group.us + us, n: group.n + 1 });
    }
    const rows = [...groups].sort((a, b) => b[1].us - a[1].us).slice(0, 12);
    this.#where.replaceChildren(
      table(
        `The ${rows.length} slowest of ${groups.size} groups (${(total / 1000).toFixed(1)} ms in total, timed ` +
          'separately)',
        ['module: operations', 'kernels', 'ms', 'share'],
        rows.map(([name, { us, n, kind }]) => {
          const bar = el('span', { class: 'bar', 'aria-hidden': 'true' });
          bar.style.width = `${Math.round((us / rows[0][1].us) * 70)}px`;
          bar.style.background = series[COLOUR[kind]];
          return [name, String(n), (us / 1000).toFixed(2), el('span', {}, bar, ` ${((us / total) * 100).toFixed(1)}%`)];
        }),
      ),
    );
  }

  #hintMap(): string {
    return this.#plan?.program
      ? `${this.#plan.program.arena.length} tensors share ${bytes(this.#plan.bytes.arena)}; point at one`
      : '';
  }
  #hintTimes(): string {
    return this.#plan?.program
      ? `${this.#plan.program.steps.length} kernels; parameter updates are not timed and show as 0; point at one`
      : '';
  }

  #overMap(px: number, py: number): void {
    const plan = this.#plan;
    if (!plan?.program) return;
    const { arena, steps, names } = plan.program,
      step = Math.floor(((px - LEFT) / (this.#map.clientWidth - LEFT - 4)) * steps.length),
      high = MAP - BOTTOM,
      offset = ((high - py) / (high - 4)) * plan.bytes.arena;
    const hit = arena.find(
      ([o, size, first, last]) => first <= step && step <= last && o <= offset && offset < o + size,
    );
    setText(
      this.#mapText,
      hit ? `${names[hit[4]]}: ${bytes(hit[1])} at ${bytes(hit[0])}, steps ${hit[2]} to ${hit[3]}` : this.#hintMap(),
    );
  }

  #overTimes(px: number): void {
    const program = this.#plan?.program;
    if (!program) return;
    const total = program.steps.reduce((n, s) => n + s[3], 0),
      want = (px / this.#times.clientWidth) * total;
    let at = 0;
    const i = program.steps.findIndex((s) => (at += s[3]) > want),
      s = program.steps[i] as Program['steps'][number] | undefined;
    setText(
      this.#timesText,
      s
        ? `kernel ${i}: ${program.names[s[0]]}${program.names[s[1]] ? ` in ${program.names[s[1]]}` : ''}, ` +
            `${(s[3] / 1000).toFixed(3)} ms`
        : this.#hintTimes(),
    );
  }
}

/** The theme's colour of each kind. */
const COLOUR = [1, 3, 0, 4, 2] as const;
/** 'matmul+add in blocks.0.attention.out' */
const scopeOf = (name: string): string => name.slice(name.indexOf(' in ') + 4);
