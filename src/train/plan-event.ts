// The event that describes the plan of steps: its memory, its kernels and how long they take, and the knobs of the MoE
// layers.
import type { Program } from '../plan/program.ts';
import { activeOf, readSlots } from '../nn/moe/slots.ts';
import { stateBytes } from '../plan/print.ts';
import type { Runnable } from '../run/executor.ts';
import { ProgramExecutor, type LoadedProgram } from '../run/program.ts';
import type { Session } from '../session/session.ts';
import type { Settings } from '../trace/knobs.ts';
import type { PlanEvent } from './events.ts';

/**
 * `loaded`: a program from session.prepare that has run, so that its inputs are still in memory. It runs once more,
 * kernel by kernel, and stores nothing.
 */
export async function planEvent(session: Session, loaded: Runnable, from: number): Promise<PlanEvent> {
  const { executor, steps: step } = session,
    { arena, io, constants } = loaded.bytes;
  const on = executor instanceof ProgramExecutor ? { executor, program: (loaded as LoadedProgram).program } : null;
  return {
    event: 'plan',
    step,
    from,
    bytes: { arena, io, constants, states: on ? stateBytes(on.program) : executor.stateBytes() },
    layers: layersOf(session),
    ...(on && { program: drawn(on.program, await on.executor.profile(loaded as LoadedProgram)) }),
  };
}

function layersOf(session: Session): Record<string, Settings> {
  return Object.fromEntries(
    Object.entries(session.plan().knobs)
      .filter(([, knobs]) => 'capacity' in knobs)
      .map(([path, { frozen, slots, ...knobs }]) => {
        const active = activeOf(readSlots(slots).families);
        return [
          path,
          {
            ...knobs,
            ...(Array.isArray(frozen) && frozen.includes(true) && { frozen }),
            ...(active.includes(false) && { active }),
          },
        ];
      }),
  );
}

/** The parts of a program that the dashboard draws: tensors of its arena, and its steps. ns: nanoseconds of each. */
export function drawn({ tensors, steps }: Program, ns: Float64Array): NonNullable<PlanEvent['program']> {
  const index = new Map<string, number>();
  const name = (text: string): number => {
    const known = index.get(text) ?? index.size;
    index.set(text, known);
    return known;
  };
  const made = new Map<number, number>(); // tensor -> the step that writes it first
  steps.forEach((s, i) =>
    s.buffers.forEach((t, b) => {
      if (s.writes[b] && !made.has(t)) made.set(t, i);
    }),
  );
  const label = (t: number): string => {
    const step = steps[made.get(t) ?? -1] as (typeof steps)[number] | undefined;
    return step ? `${step.ops.join('+')}${step.scope ? ` in ${step.scope}` : ''}` : tensors[t].name;
  };
  return {
    steps: steps.map(
      (s, i) => [name(s.ops.join('+')), name(s.scope), s.barrier ? 1 : 0, Math.round(ns[i] / 100) / 10] as const,
    ),
    arena: tensors.flatMap((t, i) =>
      t.slab === 'arena' && t.bytes > 0 ? [[t.offset, t.bytes, t.first, t.last, name(label(i))] as const] : [],
    ),
    names: [...index.keys()],
  };
}
