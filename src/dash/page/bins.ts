// Loads of a layer's experts over time, in a bounded number of bins; when all are used, neighbours are merged. In: the
// loads of each step; out: means.

const MOST = 1024;

export interface Bin {
  /** First and last step of the bin. */
  readonly from: number;
  readonly to: number;
  readonly steps: number;
  /** Mean number of choices of each expert per step. */
  readonly load: readonly number[];
}

interface Sums {
  from: number;
  to: number;
  steps: number;
  readonly load: Float64Array;
}

export class Bins {
  readonly experts: number;
  readonly #bins: Sums[] = [];
  #stride = 1;

  constructor(experts: number) {
    this.experts = experts;
  }

  add(step: number, load: readonly number[]): void {
    let bin = this.#bins.at(-1);
    if (!bin || bin.steps >= this.#stride) {
      if (this.#bins.length === MOST) this.#join();
      bin = this.#bins.at(-1);
      if (!bin || bin.steps >= this.#stride)
        this.#bins.push((bin = { from: step, to: step, steps: 0, load: new Float64Array(this.experts) }));
    }
    bin.to = step;
    bin.steps++;
    load.forEach((n, e) => {
      bin.load[e] += n;
    });
  }

  #join(): void {
    const old = this.#bins.splice(0);
    for (let i = 0; i < old.length; i += 2) {
      const a = old[i],
        b = old[i + 1] as Sums | undefined;
      if (b) {
        a.to = b.to;
        a.steps += b.steps;
        b.load.forEach((n, e) => {
          a.load[e] += n;
        });
      }
      this.#bins.push(a);
    }
    this.#stride *= 2;
  }

  /** At most `most` bins that cover the steps from..to. */
  within(from: number, to: number, most: number): Bin[] {
    const inside = this.#bins.filter((b) => b.to >= from && b.from <= to),
      group = Math.max(1, Math.ceil(inside.length / most)),
      out: Bin[] = [];
    for (let i = 0; i < inside.length; i += group) {
      const some = inside.slice(i, i + group),
        steps = some.reduce((n, b) => n + b.steps, 0);
      out.push({
        from: some[0].from,
        to: some[some.length - 1].to,
        steps,
        load: Array.from({ length: this.experts }, (_, e) => some.reduce((n, b) => n + b.load[e], 0) / steps),
      });
    }
    return out;
  }
}
