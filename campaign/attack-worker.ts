// The worker process that runs attacks, seen from the campaign. In: attacks. Out: their outcomes, also if the worker
// crashes or hangs; it is then replaced by a new one.
import { fork, type ChildProcess } from 'node:child_process';
import { availableParallelism, loadavg } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Json } from '../src/io/json.ts';
import type { Outcome } from './part.ts';
import type { Answer, Order } from './worker.ts';

const WORKER = fileURLToPath(new URL('worker.ts', import.meta.url));
const HEAP_MB = 1500; // An attack that needs more crashes its worker, which is a finding.
const KEPT = 4000; // last characters of a worker's stderr, kept for the report of a crash

export interface AttackWorkerOptions {
  /** The folder for the attacks and their shared files. */
  readonly folder: string;
  readonly plant: string | null;
  /** Called for each figure that an attack counts. */
  readonly count: (figure: string, by: number) => void;
}

export class AttackWorker {
  readonly #options: AttackWorkerOptions;
  #child: ChildProcess | null = null;
  #wrote = '';

  constructor(options: AttackWorkerOptions) {
    this.#options = options;
  }

  /** Runs an attack. `seconds` is its time limit on an idle machine. */
  async run(part: string, attack: Json, seconds: number): Promise<Outcome> {
    return (await this.#send({ part, attack }, seconds)).outcome;
  }

  /** The cases of a part that lists them. */
  async list(part: string, seconds: number): Promise<readonly Json[]> {
    const { outcome, list = [] } = await this.#send({ part }, seconds);
    if (!outcome.ok) throw new Error(`the cases of ${part} could not be listed: ${outcome.what}`);
    return list;
  }

  async #send(order: Order, seconds: number): Promise<Answer> {
    // On a machine with other work, everything takes longer in proportion to the load.
    const child = await this.#ready(),
      limit = seconds * Math.max(1, loadavg()[0] / availableParallelism()),
      answer = await new Promise<Answer>((resolve) => {
        const failed = (what: string): void => {
          resolve({ outcome: { ok: false, promise: 'an attack ends: no crash, no hang', what }, figures: {} });
        };
        const timer = setTimeout(() => {
          failed(`the attack took longer than ${Math.round(limit)} s`);
          this.#drop();
        }, limit * 1000);
        const gone = (code: number | null, signal: string | null): void => {
          clearTimeout(timer);
          failed(
            `the process that was attacked ended by ${signal ?? `exit code ${code}`}` +
              (this.#wrote === '' ? '' : `:\n${this.#wrote}`),
          );
          this.#drop();
        };
        child.once('message', (message) => {
          clearTimeout(timer);
          child.off('exit', gone);
          resolve(message as Answer);
        });
        child.once('exit', gone);
        child.send(order);
      });
    for (const [figure, by] of Object.entries(answer.figures)) this.#options.count(figure, by);
    return answer;
  }

  async #ready(): Promise<ChildProcess> {
    if (this.#child?.connected) return this.#child;
    const { folder, plant } = this.#options;
    const child = fork(WORKER, [], {
      // A process group of its own, so that processes that an attack starts are killed with it.
      detached: true,
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      execArgv: ['--conditions=dynamoe-source', '--expose-gc', '--no-warnings', `--max-old-space-size=${HEAP_MB}`],
      // The compile cache saves commands that an attack starts from compiling the same source again.
      env: {
        NODE_COMPILE_CACHE: join(folder, 'code'),
        ...process.env,
        DYNAMOE_CAMPAIGN_SHARED: folder,
        ...(plant !== null && { DYNAMOE_CAMPAIGN_PLANT: plant }),
      },
    });
    this.#wrote = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#wrote = (this.#wrote + text).slice(-KEPT);
    });
    this.#child = child;
    await new Promise<void>((resolve, reject) => {
      child.once('message', () => {
        child.removeAllListeners('exit');
        resolve();
      });
      child.once('exit', (code) => {
        reject(new Error(`the worker did not start (exit code ${code}): ${this.#wrote}`));
      });
    });
    return child;
  }

  #drop(): void {
    const child = this.#child;
    this.#child = null;
    if (child?.pid === undefined) return;
    try {
      process.kill(-child.pid, 'SIGKILL');
    } catch {
      /* The process has already ended. */
    }
  }

  /** Ends the worker, so that the next attack gets a new process. */
  async stop(): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) {
      this.#child = null;
      return;
    }
    const gone = new Promise((resolve) => {
      child.once('exit', resolve);
    });
    this.#drop();
    await gone;
  }
}
