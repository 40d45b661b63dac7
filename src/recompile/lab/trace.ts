// A trace: the layers of a run, and their loads at each step. As JSON lines: a header with the layers, then one line
// for each step. In: text, or a model; out: a Trace, or its lines.
import { UserError } from '../../base/errors.ts';
import { checkCapacity, type Capacity } from '../../nn/moe/capacity.ts';
import { ExpertBank } from '../../nn/moe/experts.ts';
import type { MoE } from '../../nn/moe/moe.ts';
import { OVERFLOWS, type Overflow } from '../../nn/moe/routing.ts';
import { DISPATCHES, type Dispatch } from '../../nn/moe/strategies.ts';
import { modulesOf } from '../policies/modules.ts';

/** A layer as it was when the trace began. */
export interface TracedLayer {
  readonly path: string;
  readonly experts: number;
  /** Experts a token. */
  readonly k: number;
  readonly capacity: Capacity;
  readonly overflow: Overflow;
  readonly dispatch: Dispatch;
  /**
   * Widths of the model and of an expert's hidden layer, to plan bytes. For experts that are not in a bank, 64 and 256
   * are assumed.
   */
  readonly dModel: number;
  readonly hidden: number;
}

/** loads[step][layer][expert]: choices before any is dropped. */
export interface Trace {
  readonly layers: readonly TracedLayer[];
  readonly loads: readonly (readonly (readonly number[])[])[];
  /** Where it was read from: errors of `replay` begin with it. */
  readonly where?: string;
}

export const VERSION = 1;

export function layersOfModel(model: object): TracedLayer[] {
  return [...modulesOf(model, 'capacity')].map(([path, module]) => {
    const { experts, topK: k, capacity, overflow, dispatch, frozen } = module as MoE,
      bank = experts instanceof ExpertBank ? experts : null;
    return {
      path,
      experts: frozen.length,
      k,
      capacity,
      overflow,
      dispatch,
      dModel: bank?.w1.shape[1] ?? 64,
      hidden: bank?.w2.shape[1] ?? 256,
    };
  });
}

export const headerLine = (layers: readonly TracedLayer[]): string =>
  JSON.stringify({ event: 'trace', version: VERSION, layers });
export const stepLine = (step: number, loads: readonly (readonly number[])[]): string =>
  JSON.stringify({ step, load: loads });
/** A trace as the lines that `parseTrace` reads. */
export const traceLines = ({ layers, loads }: Trace): string =>
  [headerLine(layers), ...loads.map((l, i) => stepLine(i + 1, l)), ''].join('\n');

/** Limits of sizes: no plan could be made for larger layers. */
const MOST_SIZE = 2 ** 24,
  MOST_LOAD = 2 ** 24;

const within = (n: unknown, least: number, most: number): boolean =>
  Number.isInteger(n) && Number(n) >= least && Number(n) <= most;

/** `where`: the file's name for errors. Throws UserError that names the wrong line. */
export function parseTrace(text: string, where: string): Trace {
  const reader = traceReader(where);
  text.split('\n').forEach((line, i) => {
    if (line.trim() !== '') reader.add(line, i + 1);
  });
  return reader.trace();
}

/**
 * Reads a trace line by line. `torn` is called with the number of each line that is not JSON, which is then left out.
 */
export function traceReader(
  where: string,
  torn?: (line: number) => void,
): { add(line: string, number: number): void; trace(): Trace } {
  const wrong = (line: number, what: string): UserError =>
    new UserError(`${where}: line ${line}: ${what}`, 'dynamoe train --trace FILE writes such files');
  const loads: number[][][] = [];
  let layers: readonly TracedLayer[] | null = null;
  return {
    add(text, line) {
      const value = parsedObject(text);
      if (!value && (!torn || !layers)) throw wrong(line, 'is no JSON object');
      if (!value) torn?.(line);
      else if (layers) loads.push(loadsOf(value, layers, (what) => wrong(line, what)));
      else layers = headerOf(value, (what) => wrong(line, what));
    },
    trace() {
      if (!layers) throw wrong(1, 'the file is empty');
      if (loads.length === 0) throw wrong(1, 'no step follows');
      return { layers, loads, where };
    },
  };
}

function parsedObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

type Wrong = (what: string) => UserError;

function headerOf({ event, version, layers }: Record<string, unknown>, wrong: Wrong): readonly TracedLayer[] {
  if (event !== 'trace' || version !== VERSION || !Array.isArray(layers) || layers.length === 0)
    throw wrong(`is not the header of a trace of version ${VERSION}`);
  layers.forEach((l: unknown) => {
    checkLayer(l as TracedLayer, wrong);
  });
  return layers as TracedLayer[];
}

function loadsOf({ load }: Record<string, unknown>, layers: readonly TracedLayer[], wrong: Wrong): number[][] {
  const fits =
    Array.isArray(load) &&
    load.length === layers.length &&
    layers.every(({ experts }, l) => {
      const own: unknown = load[l];
      return Array.isArray(own) && own.length === experts && own.every((n) => within(n, 0, MOST_LOAD));
    });
  if (!fits) throw wrong(`needs a list of loads for each layer: whole numbers up to ${MOST_LOAD}, one for each expert`);
  return load as number[][];
}

function checkLayer(layer: TracedLayer | null, wrong: Wrong): void {
  const sizes = ['experts', 'k', 'dModel', 'hidden'] as const;
  if (
    !layer ||
    typeof layer.path !== 'string' ||
    !sizes.every((key) => within(layer[key], 1, MOST_SIZE)) ||
    layer.k > layer.experts
  ) {
    throw wrong(
      `a layer needs path, and experts, k, dModel and hidden as whole numbers from 1 to ${MOST_SIZE}, k ` +
        `at most experts`,
    );
  }
  if (!DISPATCHES.includes(layer.dispatch)) throw wrong(`no dispatch named ${String(layer.dispatch)}`);
  if (!OVERFLOWS.includes(layer.overflow)) throw wrong(`no overflow named ${String(layer.overflow)}`);
  try {
    checkCapacity(layer.capacity, layer.experts);
  } catch (error) {
    throw wrong((error as Error).message.split('\n')[0]);
  }
}
