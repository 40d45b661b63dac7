// Checks, before anything is traced, whether a model's states alone fit into memory. In: parameters, how they are
// trained, the memory limit; out: nothing, or a MemoryError.
import { bytesPer } from '../base/dtype.ts';
import type { Optimizer } from '../optim/optimizer.ts';
import { showBytes } from '../plan/print.ts';
import type { Parameter } from '../trace/parameter.ts';
import type { Named } from '../trace/module.ts';
import { MemoryError, type Backend } from './backend.ts';
import type { Updating } from './updating.ts';

/** Available bytes. why: in brackets, why the device allows no more. */
export interface Room {
  readonly bytes: number;
  readonly why?: string;
}

export interface Training {
  readonly optimizer: Optimizer;
  /** Names of the parameters that are trained. */
  readonly trained: readonly string[];
  /** Whether the gradients of several parts of a batch are added up. */
  readonly sums: boolean;
  /** Bytes of a batch on the host, if known. */
  readonly batch?: number;
}

const SHOWN = 3; // number of the largest parameters in the error

/**
 * Throws MemoryError if parameters and (with `training`) moments of trained parameters need more memory than there is.
 */
export function checkRoom(
  parameters: ReadonlyMap<string, Parameter>,
  { bytes: available, why = '' }: Room,
  training: Training | null = null,
): void {
  const bytes = ({ size, dtype }: Parameter): number => size * bytesPer(dtype),
    sum = (list: Iterable<Parameter>): number => [...list].reduce((n, p) => n + bytes(p), 0);
  const own = sum(parameters.values()),
    { optimizer, trained = [], sums = false, batch = 0 } = training ?? {};
  const kept = (optimizer?.moments?.length ?? 0) + (sums ? 1 : 0),
    beside = kept * sum(trained.flatMap((name) => parameters.get(name) ?? []));
  const need = own + beside + batch;
  if (need <= available) return;
  const parts = [
    ['parameters', own],
    [sums ? 'moments and sums of gradients' : 'moments of the optimizer', beside],
    ['a batch', batch],
  ] as const;
  const largest = [...parameters]
    .sort(([, a], [, b]) => bytes(b) - bytes(a))
    .slice(0, SHOWN)
    .map(([name, p]) => `  ${showBytes(bytes(p))}  ${name} ${p.dtype}[${p.shape.join(', ')}]`);
  throw new MemoryError(
    [
      `the model needs at least ${showBytes(need)} of memory (${need} bytes), ${showBytes(available)} are ` +
        `available${why}:`,
      `  ${parts
        .filter(([, n]) => n > 0)
        .map(([what, n]) => `${what} ${showBytes(n)}`)
        .join(', ')}`,
      'largest parameters:',
      ...largest,
    ].join('\n'),
    'fewer or narrower layers or ' +
      `experts${why ? ', or the native device' : ''}${beside > 0 ? ', or sgd instead of adam' : ''}`,
  );
}

/** The same for the steps of a session; checks again only when the set of trained parameters changes. */
export class TrainingMemory {
  readonly #named: Named;
  readonly #optimizer: Optimizer | undefined;
  readonly #updating: Updating;
  readonly #backend: Pick<Backend, 'room'>;
  #checked = '';

  constructor(named: Named, optimizer: Optimizer | undefined, updating: Updating, backend: Pick<Backend, 'room'>) {
    this.#named = named;
    this.#optimizer = optimizer;
    this.#updating = updating;
    this.#backend = backend;
  }

  /** sums: as in Training. Call it before tracing and before rules are asked. Throws MemoryError. */
  check(sums: boolean): void {
    const optimizer = this.#optimizer,
      frozen = [...this.#updating.frozen()].filter(([, { parts }]) => parts === true);
    const key = `${String(sums)} ${frozen.map(([name]) => name).join()}`;
    if (!optimizer || key === this.#checked) return;
    checkRoom(this.#named.parameters, this.#backend.room(), {
      optimizer,
      trained: this.#updating.options().trained,
      sums,
    });
    this.#checked = key;
  }
}
