// Checks a Program by going through its steps: every step finds the tensors that it reads intact, no two steps of a
// wave race, and every tensor lies inside its slab.
import { VerifyError } from '../base/errors.ts';
import { showType } from '../base/shape.ts';
import { ALIGN } from './arena.ts';
import { overlap } from './overlap.ts';
import { conflict } from './plan.ts';
import type { CollectiveStep, PlannedTensor, Program, Step } from './program.ts';

export function verifyProgram(program: Program): Program {
  const { tensors, steps, slabs } = program;
  const fail = (message: string): never => {
    throw new VerifyError('plan', message);
  };
  for (const t of tensors) {
    if (t.offset % ALIGN !== 0) fail(`${t.name} lies at ${t.offset}, no multiple of ${ALIGN}`);
    if (t.slab !== 'state' && t.offset + t.bytes > slabs[t.slab]) fail(`${t.name} ends outside its slab`);
  }
  const readers = readersOfStates(program);
  // The tensors whose bytes are intact: a write destroys every other tensor that overlaps it.
  const intact = new Set([...program.inputs, ...program.states, ...program.constants].map((p) => p.tensor));
  let wave: Step[] = [];
  /** Exchanges that have begun, and for which no step has waited yet, by their step. */
  const open = new Map<number, CollectiveStep>();
  steps.forEach((step, n) => {
    const wrong = misfit(step, tensors);
    if (wrong !== null) fail(`step ${n} (${step.ops.join('+')}) ${wrong}`);
    if (step.barrier) wave = [];
    else if (wave.length > 0 && [...wave, step].some((other) => other.kind === 'collective'))
      fail(`step ${n} (${step.ops.join('+')}) runs beside a collective`);
    for (const other of wave)
      if (conflict(tensors, other, step)) fail(`step ${n} (${step.ops.join('+')}) races with a step of its wave`);
    wave.push(step);
    if (step.kind === 'collective' && step.phase === 'wait') {
      const begun = open.get(step.begunBy ?? -1);
      if (begun?.collective !== step.collective || begun.buffers.join() !== step.buffers.join())
        fail(`step ${n} (${step.ops.join('+')}) waits for an exchange that has not begun`);
      open.delete(step.begunBy ?? -1);
    }
    const own = step.kind === 'kernel' ? step.bySlot : undefined;
    if (own && open.get(own.exchange)?.slots !== own.slots)
      fail(`step ${n} (${step.ops.join('+')}) runs slot by slot beside an exchange that does not`);
    for (const [at, begun] of open)
      if (at !== own?.exchange && conflict(tensors, begun, step))
        fail(`step ${n} (${step.ops.join('+')}) uses memory of the exchange that step ${at} has begun`);
    if (step.kind === 'collective' && step.phase === 'begin') open.set(n, step);
    // The first buffer of an exchange whose rows go slot by slot is written while it goes on.
    const begins = step.kind === 'collective' && step.phase === 'begin' && step.slots === 'go',
      reads = step.buffers.filter((_, i) => (!step.writes[i] || step.readsDestination) && !(begins && i === 0));
    for (const t of [...reads, ...(step.unless === null ? [] : [step.unless])]) {
      if (!intact.has(t))
        fail(
          `step ${n} (${step.ops.join('+')}) reads ${tensors[t].name} (%${tensors[t].id}), ` +
            `which is not written yet, or is overwritten`,
        );
    }
    step.buffers.forEach((t, i) => {
      if (!step.writes[i]) return;
      if (tensors[t].slab === 'state' && tensors[t].bytes > 0) {
        const old = (r: Reader): boolean => r.step > n && (r.tensor !== t || step.readsDestination === true);
        if (readers.get(tensors[t].name)?.some(old))
          fail(`${tensors[t].name} is overwritten by step ${n} before its last reader`);
      }
      for (const other of intact)
        if (other !== t && tensors[other].bytes > 0 && overlap(tensors[other], tensors[t])) intact.delete(other);
      intact.add(t);
    });
  });
  for (const at of open.keys()) fail(`no step waits for the exchange that step ${at} has begun`);
  for (const { name, tensor } of program.outputs)
    if (!intact.has(tensor)) fail(`output ${name} is overwritten or never written`);
  return program;
}

interface Reader {
  readonly step: number;
  readonly tensor: number;
}

/** The steps that read each state, by its name: tensors of one state are the same memory (overlap.ts). */
function readersOfStates({ tensors, steps }: Program): ReadonlyMap<string, readonly Reader[]> {
  const readers = new Map<string, Reader[]>();
  steps.forEach(({ buffers, writes }, step) => {
    buffers.forEach((tensor, i) => {
      const { slab, name } = tensors[tensor];
      if (writes[i] || slab !== 'state') return;
      const known = readers.get(name);
      if (known) known.push({ step, tensor });
      else readers.set(name, [{ step, tensor }]);
    });
  });
  return readers;
}

/** Why a copy does not fit its tensors; null if it does. */
function misfit(step: Step, tensors: readonly PlannedTensor[]): string | null {
  if (step.kind !== 'copy') return null;
  const own = step.buffers.map((t) => tensors[t]),
    [to, from] = own;
  return own.length === 2 && to.type.dtype === from.type.dtype && to.bytes === from.bytes
    ? null
    : `copies between ${own.map((t) => showType(t.type)).join(' and ')}`;
}
