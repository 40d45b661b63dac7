// A Program as text: slabs, bytes by tensor and step. `dynamoe inspect --stage program`.
import { showDivided } from '../base/shape.ts';
import type { Program, Step } from './program.ts';

export const showBytes = (n: number): string => {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) {
    n /= 1024;
    i++;
  }
  return `${i === 0 ? n : n.toFixed(n < 10 ? 2 : 1)} ${units[i]}`;
};

/** Bytes of the states (parameters, optimizer, caches), each name counted once. */
export function stateBytes(program: Program): number {
  return program.states.reduce((n, s) => n + program.tensors[s.tensor].bytes, 0);
}

export function printProgram(program: Program): string {
  const { tensors, steps, slabs } = program;
  const live = steps.map((_, i) =>
    tensors.filter((t) => t.slab === 'arena' && t.first <= i && i <= t.last).reduce((n, t) => n + t.bytes, 0),
  );
  const place = (t: (typeof tensors)[number]): string =>
    t.slab === 'state' ? `state "${t.name}"` : `${t.slab}+${t.offset}`;
  return [
    `slabs: arena ${showBytes(slabs.arena)}, io ${showBytes(slabs.io)}, constants ${showBytes(slabs.constants)}, ` +
      `states ${showBytes(stateBytes(program))}`,
    `steps: ${steps.length} in ${steps.filter((s) => s.barrier).length + Math.min(1, steps.length)} waves, ` +
      `${(steps.reduce((n, s) => n + s.flops, 0) / 1e9).toFixed(3)} GFLOP`,
    '',
    'tensors',
    ...tensors.map(
      (t) =>
        `  %${t.id} ${t.name.startsWith('%') ? '' : `"${t.name}" `}${showDivided(t.type)} ` +
        `${showBytes(t.bytes)} ${place(t)} steps ${t.first}..${t.last}`,
    ),
    '',
    'states',
    ...program.states.map(
      ({ name, type, role, layout, tensor }) =>
        `  "${name}" ${showDivided(type)} ${role}, in ${layout} ${showBytes(tensors[tensor].bytes)}`,
    ),
    '',
    'steps',
    ...steps.map((s, i) => {
      const args = s.buffers.map((b, j) => `${s.writes[j] ? '>' : ''}%${tensors[b].id}`).join(' ');
      return (
        `  ${groupwise(s) ? '- ' : s.barrier ? '--' : '  '} ${i} ${showKind(s)} ` +
        `${s.ops.join('+')} (${args})${s.kind === 'kernel' && s.ints.length ? ` ints ${s.ints.join(',')}` : ''}` +
        `${s.kind === 'kernel' && s.bySlot ? ` slots of ${s.bySlot.exchange} ${s.bySlot.slots}` : ''}` +
        `${s.unless === null ? '' : ` unless %${tensors[s.unless].id}`} live ` +
        `${showBytes(live[i])}${s.scope ? `   # ${s.scope}` : ''}`
      );
    }),
  ].join('\n');
}

const groupwise = (s: Step): boolean => s.kind === 'kernel' && s.runsGroupwiseAfterPrevious !== undefined;

/** What runs: the beginning of a kernel's key, or the kind of step. */
function showKind(s: Step): string {
  switch (s.kind) {
    case 'kernel':
      return s.kernel.slice(0, 8);
    case 'copy':
      return 'copy';
    case 'collective':
      return s.phase === 'wait' ? `wait ${s.begunBy}` : s.phase === 'begin' ? `begin ${s.collective}` : s.collective;
    case 'call':
      return `${s.library}.${s.function}`;
  }
}
