// Loggers: whoever is told of a run, by the usual three verbs. In: events; out: what each makes of them (lines, files,
// a service).
import type { LogEvent, TrainEvent } from './events.ts';

/** What a logger is told before the first event. */
export interface RunInfo {
  /** The run's folder. */
  readonly folder: string;
  /** Its settings, as run.json has them. */
  readonly settings: object;
  /** Steps that are done: more than 0 where a run goes on. */
  readonly step: number;
}

/**
 * `init` once, `log` for every event in order, `flush` before each checkpoint, `finish` once, however the run ends. Any
 * object with `log` will do.
 */
export interface Logger {
  init?(run: RunInfo): void | Promise<void>;
  /** Must not wait: what is slow is collected and written by `finish`, or on a timer of its own. */
  log(event: LogEvent): void;
  /**
   * A checkpoint comes next: what was told so far must not be lost with the process, since a run that goes on does not
   * tell it again.
   */
  flush?(): void;
  /** null: the run came to its end or was stopped. */
  finish?(failure: Error | null): void | Promise<void>;
}

/**
 * Several loggers as one. One that fails is told of by `say` and left out; the run goes on. `keep`: is told first, and
 * its failure is the run's: the run's own log.
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

  /** The run ends by an error. One that did not come to its beginning is nobody's to tell. */
  async fail(step: number, failure: Error): Promise<void> {
    if (!this.#begun) return;
    // Where the log itself cannot be written there is nobody left to tell, and the failure is thrown.
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
