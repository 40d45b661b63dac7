// A trace in a file of any size. In: its path; out: a Trace.
import { listed } from '../../base/words.ts';
import { linesOf } from '../../io/lines.ts';
import { traceReader, type Trace } from './trace.ts';

/**
 * Lines that are not JSON (a killed run leaves such a line) are left out, and `say` gets their number. Rejects with a
 * UserError that names the wrong line.
 */
export async function readTrace(path: string, say: (line: string) => void): Promise<Trace> {
  const torn: number[] = [],
    reader = traceReader(path, (line) => {
      torn.push(line);
    });
  let number = 0;
  for await (const lines of linesOf(path))
    for (const line of lines) {
      number++;
      if (line.trim() !== '') reader.add(line, number);
    }
  const trace = reader.trace();
  if (torn.length > 0)
    say(
      `${path}: left out ${torn.length} torn ${torn.length === 1 ? 'line' : 'lines'} ` +
        `(${torn.length === 1 ? 'line' : 'lines'} ${listed(torn.map(String), 3)})`,
    );
  return trace;
}
