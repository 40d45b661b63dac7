// Checks a GpuKernel: what kernel/verify.ts checks of a kernel; that blocks and shared memory fit the target; and that
// barriers stand only where all threads of a block come.
import { bytesPer } from '../base/dtype.ts';
import type { Scalar } from '../kernel/expr.ts';
import { KernelChecker, scopeOf, within, type Scope } from '../kernel/verify.ts';
import type { GpuKernel, GpuStmt } from './gpu-kernel.ts';
import { varyingIn } from './gpu-uniform.ts';
import type { GpuTarget } from './target.ts';

/** A reduction needs a thread for each of its partial results. */
const LEAST_THREADS = 16;

export const bytesOf = (dtype: Scalar): number => (dtype === 'index' ? 8 : bytesPer(dtype));

/** Bytes of shared memory that a block needs. */
export const sharedBytes = ({ locals }: Pick<GpuKernel, 'locals'>): number =>
  locals.reduce((n, l) => n + (l.shared ? Math.ceil((l.length * bytesOf(l.dtype)) / 16) * 16 : 0), 0);

export function verifyGpu(k: GpuKernel, target: GpuTarget): GpuKernel {
  const check = new KernelChecker('schedule', k),
    varies = varyingIn(k),
    shared = sharedBytes(k);
  if (k.threads > target.threads || k.threads < LEAST_THREADS || !Number.isInteger(Math.log2(k.threads)))
    check.fail(
      `a block has ${k.threads} threads, where powers of 2 from ${LEAST_THREADS} to ${target.threads} are possible`,
    );
  if (shared > target.shared)
    check.fail(`a block needs ${shared} bytes of shared memory, and the target has ${target.shared}`);
  if (!(k.blocks >= 1)) check.fail(`${k.blocks} blocks`);
  k.locals.forEach((l, n) => {
    if (l.shared && l.length === 0) check.fail(`t${n} is shared, but no array`);
  });
  /** apart: only some threads of a block may come here. */
  const all = (body: readonly GpuStmt[], scope: Scope, apart: boolean): void => {
    for (const s of body) statement(s, scope, apart);
  };
  const statement = (s: GpuStmt, scope: Scope, apart: boolean): void => {
    switch (s.s) {
      case 'for':
        check.exprs([s.from, s.below], scope);
        if (!(s.step >= 1)) check.fail(`a loop has a step of ${s.step}`);
        all(s.body, within(scope, s.index), apart || varies(s.from) || varies(s.below));
        break;
      case 'if':
        check.exprs([s.condition], scope);
        all(s.body, scope, apart || varies(s.condition));
        break;
      case 'barrier':
        if (apart) check.fail('a barrier stands where only some threads of a block come');
        break;
      case 'set':
        check.common(s, scope, () => undefined);
        if ((s.index === null) !== (k.locals[s.local].length === 0))
          check.fail(`t${s.local} is ${s.index ? 'no array' : 'an array'}`);
        break;
      case 'store':
        check.common(s, scope, () => undefined);
    }
  };
  all(k.body, scopeOf(k.block, k.thread), false);
  return k;
}
