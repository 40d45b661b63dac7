// Checks of flags that are made before a command runs. In: a command and its arguments; out: a usage error, or nothing.
import type { Command } from 'commander';
import { isGpu } from '../session/platform.ts';
import { ConfigError } from '../train/config-error.ts';

/**
 * Throws for the first flag on the command line that has no effect. reasons: by flag name in camel case, why the flag
 * has no effect; anything but a string means that it has one.
 */
export function refuseFlags(
  command: Command,
  reasons: Readonly<Record<string, string | boolean | null | undefined>>,
): void {
  for (const [name, reason] of Object.entries(reasons)) {
    const option = command.options.find(
      (o) => o.attributeName() === name && command.getOptionValueSource(name) === 'cli',
    );
    if (typeof reason === 'string' && option)
      throw new ConfigError(`${option.long ?? name} has no effect here: ${reason}`, `leave ${option.long ?? name} out`);
  }
}

/**
 * Checks the flags of every command. A flag that was read as the value of the flag before it (`--out --json`) is
 * refused, and so is --threads for a device that has only one thread, or its own.
 */
export function checkFlags(command: Command, args: readonly string[]): void {
  refuseFlags(command, {
    threads:
      command.getOptionValue('device') === 'reference'
        ? 'the reference device has one thread'
        : isGpu(command.getOptionValue('device')) && 'a GPU has its own threads',
  });
  const flags = new Set(command.options.flatMap((o) => [o.long, o.short]));
  for (const { long, required } of command.options) {
    const at = args.lastIndexOf(long ?? ''),
      value = args[at + 1];
    if (required && at >= 0 && flags.has(value))
      throw new ConfigError(
        `${long} needs a value, and ${value} is a flag`,
        `write ${long}=${value} if ${value} is the value`,
      );
  }
}
