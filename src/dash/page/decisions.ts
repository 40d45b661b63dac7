// Recompilations as marks on time axes with tooltips, and as a table. In: a run's decisions; out: elements.
import type { RecompileEvent } from '../../recompile/rule.ts';
import type { Mark } from './charts.ts';
import { byId, el, table } from './dom.ts';
import { bytes, change, effect, milliseconds, outcome, price } from './format.ts';
import type { Run } from './run.ts';
import { place, type View } from './view.ts';

const label = (r: RecompileEvent, n: number): string =>
  `Recompilation ${n} at step ${r.effect ?? r.step}: ${r.rule}, ${outcome(r)}. Reason: ${r.reason}.`;
const unmeasured = (kind: RecompileEvent['class']): string =>
  `not measured${kind === 'R' ? ' (this change alters results)' : ''}`;
const figures = ({ ms, bytes: b }: RecompileEvent['before'], { class: kind }: RecompileEvent): string =>
  `${ms === null ? unmeasured(kind) : `${milliseconds(ms)} a step`}, ${bytes(b)}`;

/** A mark for each decision whose plan ran. */
export function marksOf(run: Run, view: View): Mark[] {
  return run.recompiles.flatMap((r, i): Mark[] =>
    r.effect === null
      ? []
      : [
          {
            at: place(view, run, r.effect),
            kept: r.kept,
            button: (leads) => {
              const b = el(
                'button',
                {
                  type: 'button',
                  class: `mark${r.kept ? ' kept' : ''}`,
                  'aria-describedby': 'tip',
                  ...(leads ? { 'aria-label': label(r, i + 1) } : { tabindex: '-1', 'aria-hidden': 'true' }),
                },
                String(i + 1),
              );
              for (const type of ['pointerenter', 'focus'])
                b.addEventListener(type, () => {
                  showTip(b, r, i + 1);
                });
              for (const type of ['pointerleave', 'blur']) b.addEventListener(type, hideTip);
              // Otherwise the chart below would start a selection.
              b.addEventListener('mousedown', (e) => {
                e.stopPropagation();
              });
              b.addEventListener('click', () => {
                choose(i);
              });
              return b;
            },
          },
        ],
  );
}

function showTip(by: HTMLElement, r: RecompileEvent, n: number): void {
  const tip = byId('tip'),
    row = (name: string, ...text: (Node | string)[]): Node[] => [el('dt', {}, name), el('dd', {}, ...text)];
  tip.replaceChildren(
    el('strong', {}, `${n}. ${r.rule}, ${outcome(r)}`),
    el(
      'dl',
      {},
      ...row('reason', r.reason),
      ...row(
        'step',
        r.effect === null ? `decided before ${r.step}` : `decided before ${r.step}, in effect from ${r.effect}`,
      ),
      ...row('effect', effect(r.class)),
      ...row('changes', changesOf(r)),
      ...row('before', figures(r.before, r)),
      ...row('after', figures(r.after, r)),
      ...row('price', price(r)),
    ),
  );
  tip.hidden = false;
  if (tipOf === null)
    for (const type of ['scroll', 'resize']) addEventListener(type, followTip, { passive: true, capture: true });
  tipOf = by;
  followTip();
}

/** The mark whose tooltip is shown. */
let tipOf: HTMLElement | null = null;

/** Keeps the tooltip at its mark, and hides it if the mark is not visible. */
export function followTip(): void {
  const tip = byId('tip'),
    by = tipOf;
  if (tip.hidden || by === null) return;
  const at = by.getBoundingClientRect(),
    own = tip.getBoundingClientRect(),
    below = at.bottom + 8 + own.height < window.innerHeight;
  if (!by.isConnected || at.bottom < 0 || at.top > window.innerHeight) {
    hideTip();
    return;
  }
  tip.style.left = `${Math.max(8, Math.min(window.innerWidth - own.width - 8, at.left - own.width / 2))}px`;
  tip.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - own.height - 8)}px`;
}

export function hideTip(): void {
  byId('tip').hidden = true;
}

function changesOf({ changes }: RecompileEvent): HTMLElement {
  return el(
    'ul',
    { class: 'changes' },
    ...changes.map((c) => el('li', {}, el('b', {}, `${c.path}.${c.knob}`), `: ${change(c)}`)),
  );
}

/** Scrolls from a mark to its row in the table. */
function choose(i: number): void {
  const rows = byId('decisions').querySelectorAll<HTMLElement>('tbody tr');
  rows.forEach((row, r) => {
    row.classList.toggle('chosen', r === i);
  });
  rows[i]?.scrollIntoView({ block: 'center' });
}

let shown = '';

/** The table, created again only if there is something new. */
export function drawDecisions(run: Run): void {
  followTip();
  const key = `${run.name} ${run.recompiles.length} ${run.status}`;
  if (key === shown) return;
  shown = key;
  const into = byId('decisions');
  if (run.recompiles.length === 0) {
    const why =
      run.plans.length > 0 && Object.keys(run.plans[0].layers).length === 0
        ? 'This model has no layer that could be recompiled.'
        : 'No decision yet. Layers that are ragged and dropless waste no work, so “auto” rarely acts; ' +
          '--recompile names policies that may change results.';
    into.replaceChildren(el('p', { class: 'empty' }, why));
    return;
  }
  into.replaceChildren(
    table(
      'Every decision, kept or not',
      ['no.', 'rule', 'reason', 'from step', 'changes', 'before', 'after', 'outcome', 'price'],
      run.recompiles.map((r, i) => [
        String(i + 1),
        `${r.rule} (${effect(r.class)})`,
        r.reason,
        r.effect === null ? '–' : String(r.effect),
        changesOf(r),
        figures(r.before, r),
        figures(r.after, r),
        el(
          'span',
          { class: r.kept ? 'kept-yes' : 'kept-no' },
          `${outcome(r)}${r.ratio ? ` (${r.ratio.low.toFixed(2)} to ${r.ratio.high.toFixed(2)} times the speed)` : ''}`,
        ),
        price(r),
      ]),
    ),
  );
}
