// Puts barriers between statements of which one reads or writes what the other writes in another thread. Device memory
// counts as one array: two buffers of a kernel may be the same memory. A statement whose iterations or conditions
// differ between threads gets no barrier inside; its threads must not disturb each other.
import { postorder, type Expr } from '../kernel/expr.ts';
import type { GpuKernel, GpuLocal, GpuStmt } from './gpu-kernel.ts';
import { varyingIn } from './gpu-uniform.ts';

/** Shared arrays by number; -1 is device memory. */
interface Access {
  readonly reads: Set<number>;
  readonly writes: Set<number>;
}
const DEVICE = -1;

type Compound = Extract<GpuStmt, { s: 'if' | 'for' }>;

export function withBarriers(k: GpuKernel): GpuKernel {
  const varies = varyingIn(k);
  return { ...k, body: place(k.body, none()) };

  /** `pending`: what has been read and written since the last barrier. */
  function place(stmts: readonly GpuStmt[], pending: Access): GpuStmt[] {
    return stmts.flatMap((s): GpuStmt[] => {
      const own = accessOf(k.locals, [s]),
        wait = conflict(pending, own);
      if (wait) clear(pending);
      const placed = isTogether(s) && conflict(own, own) ? inside(s, pending) : s;
      if (placed === s) join(pending, own);
      return wait ? [{ s: 'barrier' }, placed] : [placed];
    });
  }

  /** Whether all threads run the statements inside, or none does. */
  function isTogether(s: GpuStmt): s is Compound {
    return (s.s === 'if' && !varies(s.condition)) || (s.s === 'for' && !varies(s.from) && !varies(s.below));
  }

  function inside(s: Compound, pending: Access): GpuStmt {
    const inner = none();
    join(inner, pending);
    const body = place(s.body, inner);
    // The next iteration follows the last statements of this one.
    if (s.s === 'for' && conflict(inner, accessOf(k.locals, s.body))) {
      body.push({ s: 'barrier' });
      clear(inner);
    }
    join(pending, inner);
    addReads(k.locals, s.s === 'if' ? [s.condition] : [s.from, s.below], pending);
    return { ...s, body };
  }
}

const none = (): Access => ({ reads: new Set(), writes: new Set() });

function clear({ reads, writes }: Access): void {
  reads.clear();
  writes.clear();
}

function join(into: Access, { reads, writes }: Access): void {
  for (const n of reads) into.reads.add(n);
  for (const n of writes) into.writes.add(n);
}

function conflict(first: Access, second: Access): boolean {
  const meets = (a: Set<number>, b: Set<number>): boolean => [...a].some((n) => b.has(n));
  return meets(first.writes, second.reads) || meets(first.writes, second.writes) || meets(first.reads, second.writes);
}

function addReads(locals: readonly GpuLocal[], values: readonly Expr[], to: Access): void {
  for (const x of postorder(values)) {
    if (x.k === 'load') to.reads.add(DEVICE);
    if (x.k === 'local' && locals[x.local].shared) to.reads.add(x.local);
  }
}

function accessOf(locals: readonly GpuLocal[], stmts: readonly GpuStmt[]): Access {
  const all = none();
  const visit = (s: GpuStmt): void => {
    switch (s.s) {
      case 'if':
        addReads(locals, [s.condition], all);
        s.body.forEach(visit);
        break;
      case 'for':
        addReads(locals, [s.from, s.below], all);
        s.body.forEach(visit);
        break;
      case 'set':
        addReads(locals, s.index ? [s.index, s.value] : [s.value], all);
        if (locals[s.local].shared) all.writes.add(s.local);
        break;
      case 'store':
        addReads(locals, [s.index, s.value], all);
        all.writes.add(DEVICE);
        break;
      case 'barrier':
        break;
    }
  };
  stmts.forEach(visit);
  return all;
}
