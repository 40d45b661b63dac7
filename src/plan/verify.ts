// Checks a Program by going through its steps: every step finds the tensors that it reads intact, no two steps of a
// wave race, and every tensor lies inside its slab.
import { VerifyError } from '../base/errors.ts';
import { showType } from '../base/shape.ts';
import { ALIGN } from './arena.ts';
import { overlap } from './overlap.ts';
import { conflict } from './plan.ts';
import type { PlannedTensor, Program, Step } from './program.ts';

export function verifyProgram(program: Program): Program {
  const { tensors, steps, slabs } = program;
  const fail = (message: string): never => {
    throw new VerifyError('plan', message);
  };
  for (const t of tensors) {
    if (t.offset % ALIGN !== 0) fail(`${t.name} lies at ${t.offset}, no multiple of ${ALIGN}`);
    if (t.slab !== 'state' && t.offset + t.bytes > slabs[t.slab]) fail(`${t.name} ends outside its slab`);
  }
  // The tensors whose bytes are intact: a write destroys every other tensor that overlaps it.
  const intact = new Set([...program.inputs, ...program.states, ...program.constants].map((p) => p.tensor));
  let wave: Step[] = [];
  steps.forEach((step, n) => {
    const wrong = misfit(step, tensors);
    if (wrong !== null) fail(`step ${n} (${step.ops.join('+')}) ${wrong}`);
    if (step.barrier) wave = [];
    for (const other of wave)
      if (conflict(tensors, other, step)) fail(`step ${n} (${step.ops.join('+')}) races with a step of its wave`);
    wave.push(step);
    const reads = step.buffers.filter((_, i) => !step.writes[i] || step.readsDestination);
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
        for (const later of steps.slice(n + 1)) {
          const old = later.buffers.some(
            (b, j) => !later.writes[j] && (b !== t || step.readsDestination) && overlap(tensors[b], tensors[t]),
          );
          if (old) fail(`${tensors[t].name} is overwritten by step ${n} before its last reader`);
        }
      }
      for (const other of intact)
        if (other !== t && tensors[other].bytes > 0 && overlap(tensors[other], tensors[t])) intact.delete(other);
      intact.add(t);
    });
  });
  for (const { name, tensor } of program.outputs)
    if (!intact.has(tensor)) fail(`output ${name} is overwritten or never written`);
  return program;
}

/** Why a copy or a collective does not fit its tensors; null if it does. */
function misfit(step: Step, tensors: readonly PlannedTensor[]): string | null {
  const types = step.buffers.map((t) => tensors[t].type);
  if (step.kind === 'copy') {
    const [to, from] = step.buffers.map((t) => tensors[t]);
    return types.length === 2 && to.type.dtype === from.type.dtype && to.bytes === from.bytes
      ? null
      : `copies between ${types.map(showType).join(' and ')}`;
  }
  if (step.kind !== 'collective' || types.some((t) => t.axes?.includes(step.axis))) return null;
  return `is a collective over ${step.axis}, which none of its tensors carries: ${types.map(showType).join(', ')}`;
}
