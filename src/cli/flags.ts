// Flags that several commands share. In: texts of the command line; out: values, or a usage error.
import { messageOf } from '../base/errors.ts';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { DEVICE_NAMES, isDevice, PRECISIONS, type DeviceName } from '../session/platform.ts';
import { policies, POLICY_NAMES } from '../recompile/policies/select.ts';
import type { Overrides } from '../train/overrides.ts';
import type { Config } from '../train/schema.ts';

export const whole =
  (least: number, most = Number.MAX_SAFE_INTEGER) =>
  (text: string): number => {
    const value = /^\d+(_\d+)*$/.test(text) ? Number(text.replaceAll('_', '')) : NaN;
    if (Number.isSafeInteger(value) && value >= least && value <= most) return value;
    throw new InvalidArgumentError(
      most === Number.MAX_SAFE_INTEGER
        ? `expected a whole number of at least ${least}`
        : `expected a whole number from ${least} to ${most}`,
    );
  };

export const real =
  (least: number, exclusive = false) =>
  (text: string): number => {
    const value = text.trim() === '' ? NaN : Number(text);
    if (Number.isFinite(value) && (exclusive ? value > least : value >= least)) return value;
    throw new InvalidArgumentError(`expected a number ${exclusive ? 'above' : 'of at least'} ${least}`);
  };

/** A share or probability: up to 1. */
export const share =
  (least: number, exclusive = false) =>
  (text: string): number => {
    const value = real(least, exclusive)(text);
    if (value <= 1) return value;
    throw new InvalidArgumentError('expected a number of at most 1');
  };

/** A flag that may be given several times. */
export const several = (text: string, before: readonly string[] = []): readonly string[] => [...before, text];

/** A capacity factor, or dropless. */
export const capacityOf = (text: string): number | 'dropless' => (text === 'dropless' ? text : real(0, true)(text));

/** 1,2,4 */
export const wholeList = (text: string): number[] => text.split(',').map(whole(1, 256));

/** 1,1.25,2 */
export const realList = (text: string): number[] => text.split(',').map(real(0));

export const MAX_SEED = 0xffffffff;

export const device = (): Option =>
  new Option(
    '--device <name>',
    `where to run: ${DEVICE_NAMES} (default: auto, which is a GPU if there is one and threads are not given, else ` +
      'native if a C compiler is found, else wasm)',
  ).argParser((text): DeviceName => {
    if (isDevice(text)) return text;
    throw new InvalidArgumentError(`Allowed choices are ${DEVICE_NAMES}.`);
  });
export const threads = (): Option =>
  new Option('--threads <n>', 'CPU threads (default: all cores); results are identical for any number').argParser(
    whole(1, 256),
  );
export const precision = (): Option =>
  new Option(
    '--precision <name>',
    'what is stored in 16 bits: nothing; activations (bfloat16); or weights and moments too (default: float32)',
  ).choices(PRECISIONS);
export const json = (): Option => new Option('--json', 'print only JSON on stdout, one object per line');
/** fallback: the default for commands without a config file. */
export const recompile = (fallback?: string): Option => {
  const option = new Option(
    '--recompile <names>',
    'policies that recompile the run: auto (only changes that keep results identical), off, or some of ' +
      `${POLICY_NAMES.join(',')}, each with options if need be: adaptCapacity{quantile=0.9,margin=0.1}` +
      (fallback === undefined ? ' (default: auto)' : ''),
  );
  if (fallback !== undefined) option.default(fallback);
  return option.argParser((text) => {
    try {
      policies(text);
    } catch (error) {
      throw new InvalidArgumentError(`${messageOf(error)}: auto, off, or some of ${POLICY_NAMES.join(',')}`);
    }
    return text;
  });
};
export const learningRate = (): Option =>
  new Option('--lr <rate>', 'highest learning rate (default: 0.003)').argParser(real(0, true));
export const data = (): Option =>
  new Option('--data <path...>', 'text: files, folders or globs; put other arguments before it');

/** Flags of the default language model. */
export function modelFlags(command: Command): Command {
  return command
    .optionsGroup('Default language model:')
    .option('--layers <n>', 'transformer blocks (default: 4)', whole(1))
    .option('--d-model <n>', 'width (default: 128)', whole(2))
    .option('--heads <n>', 'attention heads (default: 4)', whole(1))
    .option('--context <n>', 'context length in bytes (default: 64)', whole(1))
    .option('--experts <n>', 'experts per layer; 0: dense layers (default: 8)', whole(0))
    .option('--top-k <n>', 'experts per token (default: 2)', whole(1))
    .option(
      '--d-ff <n>',
      'hidden size of an expert (default: 256), or of dense layers (default: 4 times the width)',
      whole(1),
    );
}

export interface DashFlags {
  /** true: on the default port, or a free one. */
  readonly dash?: number | boolean;
  readonly auth?: boolean;
}

/** The flag for a page about a run. */
export const dash = (): Option =>
  new Option(
    '--dash [port]',
    'serve a live page about the run, to this machine only; prints its URL (default port: 6600, or a free one)',
  ).argParser((text) => {
    if (!/^\d+$/.test(text)) throw new InvalidArgumentError('expected a port; a config file goes before --dash');
    return whole(1, 65535)(text);
  });
export const noAuth = (): Option =>
  new Option('--no-auth', "do not put a token into the page's URL: every user of this machine can then open it");

export interface TrainFlags extends Overrides, DashFlags {
  readonly tensorboard?: boolean;
  readonly out?: string;
  readonly resume?: boolean;
  readonly json?: boolean;
  readonly trace?: string;
}

/** Flags of commands that use a trained model. */
export interface OpenFlags {
  readonly data?: readonly string[];
  readonly config?: string;
  readonly device?: Config['device'];
  readonly threads?: number;
  readonly json?: boolean;
  readonly recompile: string;
}
