// Growing columns of numbers, and their reduction for charts: at most about two values for each pixel.

/** A growing list of float64. */
export class Column {
  #data = new Float64Array(256);
  length = 0;

  push(x: number): void {
    if (this.length === this.#data.length) {
      const more = new Float64Array(2 * this.length);
      more.set(this.#data);
      this.#data = more;
    }
    this.#data[this.length++] = x;
  }

  at(i: number): number {
    return this.#data[i] ?? NaN;
  }
  get last(): number {
    return this.length === 0 ? NaN : this.#data[this.length - 1];
  }

  /** The first index whose value is at least x; values must ascend. */
  indexOf(x: number): number {
    let low = 0,
      high = this.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#data[middle] < x) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** x values, and the values of each series; null is a gap. */
export interface Table {
  readonly xs: number[];
  readonly ys: (number | null)[][];
}

/**
 * Rows from..to of columns: unchanged if they fit, otherwise the lowest and the highest of each interval, so that
 * peaks stay visible.
 */
export function thinned(xs: Column, ys: readonly Column[], from: number, to: number, room: number): Table {
  const table: Table = { xs: [], ys: ys.map(() => []) },
    count = to - from;
  const value = (y: number): number | null => (Number.isFinite(y) ? y : null);
  if (count <= 2 * room) {
    for (let i = from; i < to; i++) {
      table.xs.push(xs.at(i));
      ys.forEach((y, s) => {
        table.ys[s].push(value(y.at(i)));
      });
    }
    return table;
  }
  for (let b = 0; b < room; b++) {
    const start = from + Math.floor((b * count) / room),
      end = from + Math.floor(((b + 1) * count) / room);
    table.xs.push(xs.at(start), xs.at(end - 1));
    ys.forEach((y, s) => {
      let low = Infinity,
        high = -Infinity,
        lowAt = 0,
        highAt = 0;
      for (let i = start; i < end; i++) {
        const v = y.at(i);
        if (v < low) {
          low = v;
          lowAt = i;
        }
        if (v > high) {
          high = v;
          highAt = i;
        }
      }
      table.ys[s].push(...(low === Infinity ? [null, null] : lowAt < highAt ? [low, high] : [high, low]));
    });
  }
  return table;
}

/** An exponential moving average of a growing column, corrected for the start. */
export class Smooth {
  readonly #of: Column;
  #keep = 0;
  #sum = 0;
  #weight = 0;
  values = new Column();

  constructor(of: Column) {
    this.#of = of;
  }

  /** keep: weight of the old average, from 0 to below 1. */
  upTo(keep: number): Column {
    if (keep !== this.#keep) {
      this.values = new Column();
      this.#sum = this.#weight = 0;
      this.#keep = keep;
    }
    for (let i = this.values.length; i < this.#of.length; i++) {
      this.#sum = keep * this.#sum + (1 - keep) * this.#of.at(i);
      this.#weight = keep * this.#weight + (1 - keep);
      this.values.push(this.#sum / this.#weight);
    }
    return this.values;
  }
}
