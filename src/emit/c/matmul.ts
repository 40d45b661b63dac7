// A matmul as C: describes its operands, their packing and the epilogue to the matrix core (dm_gemm in
// device/native/runtime.h). An operand with constant strides in memory is passed as it is; any other is computed while
// it is packed.
import type { Extent } from '../../kernel/kernel.ts';
import type { CpuMatmul } from '../../schedule/cpu-kernel.ts';
import { direct, isPlain, touchedBy } from '../clike/access.ts';
import { block } from '../clike/text.ts';
import { address, epilogue, packA, packB } from '../clike/tile.ts';
import { C } from './dialect.ts';

export function emitMatmul(name: string, k: CpuMatmul, params: readonly string[]): string[] {
  const lines: string[] = [],
    fields = [`.groups = ${k.groups}`, `.n = ${k.n}`, size('m', k.m), size('k', k.depth)];
  if (k.parts) fields.push(`.parts = ${k.parts.parts}`, `.sample = ${k.parts.sample}`);
  if (k.parts?.offsets !== undefined)
    fields.push(`.part_off = (const int32_t *)c->buf[${k.parts.offsets}]`, `.part_step = ${k.parts.step ?? 1}`);
  /** Writes a function of the group z; gives its name. */
  const part = (result: string, letter: string, more: string, body: readonly string[]): string => {
    const head = `static ${result}${name}_${letter}(const dm_ctx *c, int64_t ${k.z.name}${more}) `;
    lines.push(...block(head, [...params, ...body]));
    return `${name}_${letter}`;
  };
  const tile = (...vars: string[]): string => vars.map((v) => `, int64_t ${v}0, int64_t n${v}`).join('');
  const operand = (letter: 'a' | 'b', [first, second]: readonly ['i', 'k'] | readonly ['k', 'j']): boolean => {
    const memory = direct(k[letter], k[first], k[second]);
    if (memory) {
      fields.push(`.${letter}_base = ${part('const float *', letter, '', address(C, k, memory))}`);
      fields.push(`.${letter}_s${first} = ${memory.s0}`, `.${letter}_s${second} = ${memory.s1}`);
    } else {
      const copy = (letter === 'a' ? packA : packB)(C, k);
      fields.push(`.${letter}_pack = ${part('void ', letter, `${tile(first, second)}, float *dst, int64_t ld`, copy)}`);
    }
    return memory === null;
  };
  if (operand('a', ['i', 'k'])) fields.push(`.a_pack_cols = ${k.packA.inner === k.i ? 1 : 0}`);
  if (k.panels && k.b.k === 'load') {
    const { width, apart } = k.panels;
    fields.push(`.b_base = ${part('const float *', 'b', '', address(C, k, k.b))}`);
    fields.push(`.b_sk = ${width}`, '.b_sj = 1', `.b_panel = ${apart}`);
  } else operand('b', ['k', 'j']);
  const store = `${tile('i', 'j')}, const float *acc, int64_t ld`;
  fields.push(`.store = ${part('void ', 'c', store, epilogue(C, k))}`);
  const touched = touchedBy(k);
  for (const [n, place] of touched.entries()) {
    const fn = part('const void *', n === 0 ? 'o' : 'p', '', address(C, k, place));
    fields.push(...(n === 0 ? [`.out = ${fn}`, `.out_si = ${4 * place.si}`] : [`.also = ${fn}`]));
  }
  if (touched.length > 0 && isPlain(k)) fields.push('.plain = 1');
  return [
    ...lines,
    `static inline dm_gemm ${name}_d(const dm_ctx *c) { return (dm_gemm){ ${fields.join(', ')} }; }`,
    `int64_t ${name}_tasks(const dm_ctx *c) { const dm_gemm d = ${name}_d(c); return c->core->gemm_tasks(c, &d); }`,
    `void ${name}(const dm_ctx *c, int64_t task) { const dm_gemm d = ${name}_d(c); c->core->gemm_task(c, &d, task); }`,
  ];
}

function size(of: 'm' | 'k', e: Extent): string {
  if (typeof e === 'number') return `.${of} = ${e}`;
  return 'count' in e
    ? `.${of} = ${e.times} * (int64_t)((const int32_t *)c->buf[${e.count}])[${e.at}]`
    : `.${of}_off = (const int32_t *)c->buf[${e.offsets}]`;
}
