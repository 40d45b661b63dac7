// Which of some numbered things come after which, directly or not, while the relation grows. Grouping asks for almost
// every value of a graph, so the answer is kept as bits rather than searched for.

export class Ancestors {
  /** Bit j of `#before[i]`: j comes before i. An array is as long as its highest bit needs. */
  readonly #before: Uint32Array[] = [];
  /** Whether something comes after i. */
  readonly #hasLater: boolean[] = [];

  /** Adds a thing that nothing comes before or after. Gives its number: 0, 1, .. */
  add(): number {
    this.#hasLater.push(false);
    return this.#before.push(new Uint32Array(0)) - 1;
  }

  /** Whether j comes before i. */
  has(i: number, j: number): boolean {
    const bits = this.#before[i],
      word = j >>> 5;
    return word < bits.length && ((bits[word] >>> (j & 31)) & 1) === 1;
  }

  /** From now on j, and all that comes before j, comes before i and all that comes after i. */
  link(i: number, j: number): void {
    if (this.has(i, j)) return;
    this.#add(i, j);
    if (this.#hasLater[i]) for (let k = 0; k < this.#before.length; k++) if (this.has(k, i)) this.#add(k, j);
    this.#hasLater[j] = true;
  }

  #add(i: number, j: number): void {
    const from = this.#before[j],
      length = Math.max((j >>> 5) + 1, from.length);
    let to = this.#before[i];
    if (to.length < length) {
      const longer = new Uint32Array(length);
      longer.set(to);
      this.#before[i] = to = longer;
    }
    for (let w = 0; w < from.length; w++) to[w] |= from[w];
    to[j >>> 5] |= 1 << (j & 31);
  }
}
