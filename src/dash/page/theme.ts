// Colours for canvases, from the style sheet: light or dark, as the reader's system.
export interface Theme {
  readonly text: string;
  readonly faint: string;
  readonly grid: string;
  readonly panel: string;
  readonly mark: string;
  readonly capacity: string;
  readonly over: string;
  readonly series: readonly string[];
  /** The colour for a load of `share` times the even share. top: the highest share in the picture. */
  heat(share: number, top: number): string;
}

type Colour = readonly [number, number, number];

let current: Theme | undefined;
const listeners: (() => void)[] = [];
const dark = matchMedia('(prefers-color-scheme: dark)');
dark.addEventListener('change', () => {
  current = undefined;
  for (const listener of listeners) listener();
});

export const onTheme = (listener: () => void): void => {
  listeners.push(listener);
};

export function theme(): Theme {
  if (current) return current;
  const style = getComputedStyle(document.documentElement),
    of = (name: string): string => style.getPropertyValue(`--${name}`).trim();
  const rgb = (name: string): Colour => {
    const hex = of(name).slice(1);
    return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)) as unknown as Colour;
  };
  const low = rgb('heat-low'),
    even = rgb('heat-even'),
    high = rgb('heat-high');
  const mix = (a: Colour, b: Colour, t: number): string =>
    `rgb(${a.map((x, i) => Math.round(x + (b[i] - x) * t)).join(' ')})`;
  // Colour texts are cached: a drawing has tens of thousands of cells.
  const ramp = (a: Colour, b: Colour): string[] => Array.from({ length: 65 }, (_, i) => mix(a, b, i / 64)),
    below = ramp(low, even),
    above = ramp(even, high);
  current = {
    text: of('text'),
    faint: of('muted'),
    grid: of('grid'),
    panel: of('panel'),
    mark: of('mark'),
    capacity: of('capacity'),
    over: of('over'),
    series: Array.from({ length: 8 }, (_, i) => of(`series-${i + 1}`)),
    heat: (share, top) =>
      share <= 1
        ? below[Math.round(64 * Math.max(0, share))]
        : above[Math.round(64 * Math.min(1, (share - 1) / Math.max(0.5, top - 1)))],
  };
  return current;
}
