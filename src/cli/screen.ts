// Draws a few changing lines at the bottom of a terminal, below lines that stay. Lines never wrap, the cursor is never
// hidden, and only the lines drawn last are erased, so that a resize, a crash or Ctrl-Z leaves a usable terminal.
import type { WriteStream } from 'node:tty';

export class Screen {
  readonly #out: WriteStream;
  #drawn: readonly string[] = [];
  readonly #onResize = (): void => {
    this.#redraw();
  };
  readonly #onContinue = (): void => {
    this.#drawn = [];
  };
  readonly #onExit = (): void => {
    if (this.#drawn.length > 0) this.#out.write('\n');
  };

  constructor(out: WriteStream) {
    this.#out = out;
    out.on('resize', this.#onResize);
    process.on('SIGCONT', this.#onContinue);
    process.on('exit', this.#onExit);
  }

  get columns(): number {
    return Math.max(20, this.#out.columns || 80);
  }

  /** Replaces the lines drawn before. */
  draw(lines: readonly string[]): void {
    const rows = Math.max(1, (this.#out.rows || 24) - 1),
      shown = lines.slice(0, rows).map((line) => this.#cut(line));
    this.#out.write(`${this.#erase()}${shown.join('\n')}`);
    this.#drawn = shown;
  }

  /** Prints a permanent line above the drawn ones. */
  print(line: string): void {
    const drawn = this.#drawn;
    this.#out.write(`${this.#erase()}${line}\n${drawn.join('\n')}`);
  }

  clear(): void {
    this.#out.write(this.#erase());
    this.#drawn = [];
  }

  close(): void {
    this.clear();
    this.#out.off('resize', this.#onResize);
    process.off('SIGCONT', this.#onContinue);
    process.off('exit', this.#onExit);
  }

  #redraw(): void {
    const drawn = this.#drawn;
    if (drawn.length > 0) this.draw(drawn);
  }

  /** The escape codes that erase the drawn lines. A terminal that became narrower has wrapped them. */
  #erase(): string {
    if (this.#drawn.length === 0) return '';
    const rows = this.#drawn.reduce((n, line) => n + Math.max(1, Math.ceil(line.length / this.columns)), 0);
    return `\r${rows > 1 ? `\x1b[${rows - 1}A` : ''}\x1b[J`;
  }

  #cut(line: string): string {
    const room = this.columns - 1;
    return line.length <= room ? line : `${line.slice(0, room - 1)}…`;
  }
}

/** Whether a stream is a terminal that understands escape codes. */
export function isScreen(out: NodeJS.WriteStream): out is WriteStream {
  return out.isTTY && process.env['TERM'] !== 'dumb';
}
