// Loggers receive the events of a run. In: events; out: lines, files, or data for a service.
import type { LogEvent, TrainEvent } from './events.ts';

/** What a logger gets before the first event. */
export interface RunInfo {
  /** The run's folder. */
  readonly folder: string;
  /** Its settings, as run.json has them. */
  readonly settings: object;
  /** Steps that are done; more than 0 if a run is resumed. */
  readonly step: number;
}

/**
 * `init` is called once, `log` for every event in order, `flush` before each checkpoint, `finish` once, however the run
 * ends. Only `log` is required.
 */
export interface Logger {
  init?(run: RunInfo): void | Promise<void>;
  /** Must return at once: slow work is collected and done in `finish`, or by a timer of the logger. */
  log(event: LogEvent): void;
  /**
   * Called before a checkpoint is written. Events so far must be stored safely, because a run that is resumed from the
   * checkpoint does not send them again.
   */
  flush?(): void;
  /** error null: the run completed or was stopped. */
  finish?(failure: Error | null): void | Promise<void>;
}

/**
 * Several loggers as one. A logger that fails is reported by `say` and gets no more events; the run continues. `keep`:
 * the run's own log, which gets each event first, and whose failure ends the run.
 */
export class Loggers {
  #loggers: readonly Logger[];
  readonly #keep: (event: LogEvent) => void;
  readonly #say: (line: string) => void;
  #begun = false;

  constructor(loggers: readonly Logger[], keep: (event: LogEvent) => void, say: (line: string) => void) {
    this.#loggers = loggers;
    this.#keep = keep;
    this.#say = say;
  }

  async init(run: RunInfo): Promise<void> {
    this.#begun = true;
    for (const logger of this.#loggers) {
      try {
        await logger.init?.(run);
      } catch (error) {
        this.#drop(logger, error);
      }
    }
  }

  log(event: TrainEvent): void {
    const stamped: LogEvent = { ...event, time: Date.now() / 1000 };
    this.#keep(stamped);
    for (const logger of this.#loggers) {
      try {
        logger.log(stamped);
      } catch (error) {
        this.#drop(logger, error);
      }
    }
  }

  flush(): void {
    for (const logger of this.#loggers) {
      try {
        logger.flush?.();
      } catch (error) {
        this.#drop(logger, error);
      }
    }
  }

  /** Reports that the run ends by an error. Does nothing if the run had not begun. */
  async fail(step: number, failure: Error): Promise<void> {
    if (!this.#begun) return;
    // If the run's log itself cannot be written, the failure is thrown.
    try {
      this.log({ event: 'failed', step, error: failure.message.split('\n')[0] });
    } catch {
      /* that may be the failure */
    }
    await this.finish(failure);
  }

  async finish(failure: Error | null): Promise<void> {
    for (const logger of this.#loggers) {
      try {
        await logger.finish?.(failure);
      } catch (error) {
        this.#drop(logger, error);
      }
    }
  }

  #drop(logger: Logger, error: unknown): void {
    this.#loggers = this.#loggers.filter((other) => other !== logger);
    this.#say(`a logger failed and is left out: ${error instanceof Error ? error.message : String(error)}`);
  }
}
