// Writes rows into a cache.
import type { Op } from '../op.ts';
import { boundOf, elements } from '../../base/shape.ts';
import { emit1, type Tensor } from '../tensor.ts';
export const updateRowsOp: Op = {
  name: 'updateRows', doc: 'cache with rows at start.. of axis 1',
  infer: ([c]) => [c],
  lower: { kind: 'map', weight: 2, at({ e, inputs: [c, x, s] }, index) {
    const t = boundOf(x.type.shape[1]), start = e.op('cast', [s.at([])], 'index'), rel = e.linear(0, [[1, index[1]], [-1, start]]);
    const inside = e.op('and', [e.op('le', [e.index(0), rel], 'bool'), e.op('lt', [rel, e.index(t)], 'bool')], 'bool');
    const safe = e.op('min', [e.op('max', [rel, e.index(0)], 'index'), e.index(t - 1)], 'index');
    return e.op('select', [inside, x.at([index[0], safe, ...index.slice(2)]), c.at(index)], c.type.dtype);
  } },
  reference({ inputs: [c, x, [s]], inTypes: [tc, tx] }) {
    const out = c.slice(), w = elements(tc.shape.slice(2)), [B, C] = tc.shape.map(boundOf), T = boundOf(tx.shape[1]);
    for (let b = 0; b < B; b++) for (let t = 0; t < T; t++) for (let i = 0; i < w; i++) out[(b * C + s + t) * w + i] = x[(b * T + t) * w + i];
    return [out];
  },
};
export const updateRows = (cache: Tensor, rows: Tensor, start: Tensor): Tensor => emit1('updateRows', [cache, rows, start]);
