// Draws the three pictures of the plane: the target pattern, the learned pattern, and the expert of each point. A ring
// marks the place that the reader has chosen.
import { byId } from '../src/dash/page/dom.ts';
import { theme } from '../src/dash/page/theme.ts';
import { EXPERTS } from './model.ts';
import { colourOf, type Spot } from './plane.ts';
import { SIDE, type Picture } from './protocol.ts';

type Colour = readonly [number, number, number];
const rgb = (hex: string): Colour => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)) as unknown as Colour;

/** Paints SIDE x SIDE points. */
function paint(id: string, colour: (i: number) => Colour): void {
  const canvas = byId<HTMLCanvasElement>(id),
    context = canvas.getContext('2d')!,
    image = context.createImageData(SIDE, SIDE);
  for (let i = 0; i < SIDE * SIDE; i++) image.data.set([...colour(i), 255], 4 * i);
  context.putImageData(image, 0, 0);
}

/** A mixture of the two colours. */
function mixed(share: number): Colour {
  const { series } = theme(),
    a = rgb(series[0]),
    b = rgb(series[1]);
  return [0, 1, 2].map((c) => Math.round(a[c] + (b[c] - a[c]) * share)) as unknown as Colour;
}

const at = (i: number): Spot => ({
  x: (2 * ((i % SIDE) + 0.5)) / SIDE - 1,
  y: (2 * (Math.floor(i / SIDE) + 0.5)) / SIDE - 1,
});

export function drawTarget(): void {
  paint('target', (i) => mixed(colourOf(at(i).x, at(i).y)));
}

export function drawPicture({ colours, experts }: Picture): void {
  const { series } = theme(),
    each = Array.from({ length: EXPERTS }, (_, e) => rgb(series[e % series.length]));
  paint('learned', (i) => mixed(colours[i] / 255));
  paint('territories', (i) => each[experts[i]]);
}

/** Moves the ring to the spot. Without skew, the ring is faint. */
export function placeSpot(spot: Spot, skew: number): void {
  for (const ring of document.querySelectorAll<HTMLElement>('.ring')) {
    ring.style.left = `${50 * (spot.x + 1)}%`;
    ring.style.top = `${50 * (spot.y + 1)}%`;
    ring.classList.toggle('idle', skew === 0);
  }
}
