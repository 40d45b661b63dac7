// Checks, before anything is traced, whether a model's states alone fit into memory. In: parameters, how they are
// trained, the memory limit; out: nothing, or a MemoryError.
import { bytesPer, type DType } from '../base/dtype.ts';
import { momentShapesOf } from '../optim/moments.ts';
import type { Optimizer } from '../optim/optimizer.ts';
import { showBytes } from '../plan/print.ts';
import { isOfExperts, type Parameter } from '../trace/parameter.ts';
import type { Named } from '../trace/module.ts';
import { MemoryError, type Backend } from './backend.ts';
import type { Precision } from './platform.ts';
import { storedDtype } from './precision.ts';
import type { CompileOptions } from './step.ts';
import type { Updating } from './updating.ts';

/**
 * Available bytes. why: in brackets, why the device allows no more. precision: decides the bytes of states. ranks: how
 * many processes divide the experts.
 */
export interface Room {
  readonly bytes: number;
  readonly why?: string;
  readonly precision?: Precision | undefined;
  readonly ranks?: number | undefined;
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
  named: Pick<Named, 'parameters'>,
  { bytes: available, why = '', precision, ranks = 1 }: Room,
  training: Training | null = null,
): void {
  const { parameters } = named,
    dtypeOf = (name: string, { dtype }: Parameter): DType => storedDtype(named, precision, name) ?? dtype,
    own = (p: Parameter): number => (isOfExperts(p) && p.shape[0] % ranks === 0 ? p.size / ranks : p.size),
    bytes = (name: string, p: Parameter): number => own(p) * bytesPer(dtypeOf(name, p)),
    sum = (names: Iterable<string>, of: (name: string, p: Parameter) => number): number =>
      [...names].reduce((n, name) => n + (parameters.has(name) ? of(name, parameters.get(name) as Parameter) : 0), 0);
  const values = sum(parameters.keys(), bytes),
    { optimizer, trained = [], sums = false, batch = 0 } = training ?? {};
  // Sums of gradients have the dtype of the parameter, also where the parameter is stored in 16 bits.
  const moments = sum(trained, (name, p) => bytes(name, p) * Object.keys(momentShapesOf(optimizer, p)).length),
    beside = moments + (sums ? sum(trained, (_, p) => own(p) * bytesPer(p.dtype)) : 0);
  const need = values + beside + batch;
  if (need <= available) return;
  const parts = [
    ['parameters', values],
    [sums ? 'moments and sums of gradients' : 'moments of the optimizer', beside],
    ['a batch', batch],
  ] as const;
  const largest = [...parameters]
    .sort((a, b) => bytes(...b) - bytes(...a))
    .slice(0, SHOWN)
    .map(([name, p]) => `  ${showBytes(bytes(name, p))}  ${name} ${dtypeOf(name, p)}[${p.shape.join(', ')}]`);
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
  readonly #precision: Precision | undefined;
  readonly #ranks: number | undefined;
  readonly #backend: Pick<Backend, 'room'>;
  #checked = '';

  constructor(
    named: Named,
    { optimizer, precision, ranks }: Pick<CompileOptions, 'optimizer' | 'precision' | 'ranks'>,
    updating: Updating,
    backend: Pick<Backend, 'room'>,
  ) {
    this.#named = named;
    this.#optimizer = optimizer;
    this.#precision = precision;
    this.#ranks = ranks?.size;
    this.#updating = updating;
    this.#backend = backend;
  }

  /** sums: as in Training. Call it before tracing and before rules are asked. Throws MemoryError. */
  check(sums: boolean): void {
    const optimizer = this.#optimizer,
      frozen = [...this.#updating.frozen()].filter(([, { parts }]) => parts === true);
    const key = `${String(sums)} ${frozen.map(([name]) => name).join()}`;
    if (!optimizer || key === this.#checked) return;
    const room = { ...this.#backend.room(), precision: this.#precision, ranks: this.#ranks };
    checkRoom(this.#named, room, { optimizer, trained: this.#updating.options().trained, sums });
    this.#checked = key;
  }
}
