// The error for an invalid configuration or command.
import { UserError } from '../base/errors.ts';

/** An invalid configuration or command; the command line exits with code 2. */
export class ConfigError extends UserError {
  override readonly name: string = 'ConfigError';
}
