// The data of the playground: points of the plane, each with one of two colours. Each quarter has a different pattern,
// so that different experts can learn different quarters. In: the share of points near one spot (the skew), and the
// spot. Out: batches.
import { hostTensor, type Batch } from 'dynamoe/whole';

export interface Spot {
  readonly x: number;
  readonly y: number;
}

/** The colour, 0 or 1, of a point of [-1, 1] x [-1, 1]; y grows downwards, as on a screen. */
export function colourOf(x: number, y: number): 0 | 1 {
  const one =
    x < 0
      ? y < 0
        ? Math.floor(3 * (x + 1)) % 2 === Math.floor(3 * (y + 1)) % 2
        : Math.sin(9 * (x + y)) > 0
      : y < 0
        ? Math.sin(16 * Math.hypot(x - 0.5, y + 0.5)) > 0
        : y - 0.5 > 0.25 * Math.sin(9 * x);
  return one ? 1 : 0;
}

const SPREAD = 0.1; // standard deviation around the spot

/** Endless batches. Points are uniform over the plane, except the share `skew`, which is near the spot. */
export class Plane {
  skew = 0;
  spot: Spot = { x: 0.5, y: -0.5 };
  readonly #size: number;
  #state: number;

  constructor(size: number, seed: number) {
    this.#size = size;
    this.#state = seed >>> 0;
  }

  /** mulberry32: uniform in [0, 1). */
  #uniform(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** x float32 [size, 2], y int32 [size] */
  batch(): Batch {
    const size = this.#size,
      x = new Float32Array(2 * size),
      y = new Int32Array(size),
      inside = (v: number): number => Math.max(-1, Math.min(1, v));
    for (let i = 0; i < size; i++) {
      let at: Spot = { x: 2 * this.#uniform() - 1, y: 2 * this.#uniform() - 1 };
      if (this.#uniform() < this.skew) {
        const radius = SPREAD * Math.sqrt(-2 * Math.log(1 - this.#uniform())),
          angle = 2 * Math.PI * this.#uniform();
        at = { x: inside(this.spot.x + radius * Math.cos(angle)), y: inside(this.spot.y + radius * Math.sin(angle)) };
      }
      x.set([at.x, at.y], 2 * i);
      y[i] = colourOf(at.x, at.y);
    }
    return { x: hostTensor('float32', [size, 2], x), y: hostTensor('int32', [size], y) };
  }
}
