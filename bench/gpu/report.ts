// What the process of a part tells the runner: one JSON object a line on stdout.
export type Line =
  /** Something that has to hold. */
  | { readonly check: string; readonly ok: boolean; readonly why?: string }
  /** Something that was measured. */
  | { readonly figure: string; readonly value: number; readonly unit: string }
  /** Something that is known about the machine or a library. */
  | { readonly fact: string; readonly is: string }
  /** Something that could not be done here. */
  | { readonly skip: string; readonly why: string };

export const tell = (line: Line): void => {
  process.stdout.write(`${JSON.stringify(line)}\n`);
};

/** Tells whether `hold` returns: what it throws is the reason why it does not hold. */
export async function check(name: string, hold: () => void | Promise<void>): Promise<void> {
  try {
    await hold();
    tell({ check: name, ok: true });
  } catch (error) {
    tell({ check: name, ok: false, why: (error instanceof Error ? error.message : String(error)).slice(0, 2000) });
  }
}

/** Small sizes, for a machine whose GPU is only pretended (tests/support/cuda). */
export const SMALL = process.env['DYNAMOE_GPU_SMALL'] === '1';
