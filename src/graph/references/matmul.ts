// References of products of matrices.
import { split } from '../ops/matmul/matmul.ts';
import { wrapped } from '../ops/elementwise/elementwise.ts';
import { boundOf, elements } from '../../base/shape.ts';
import { isFloat } from '../../base/dtype.ts';
import type { References } from './references.ts';

export const matmul: References = {
  groupedMatmul(call) {
    const {
        inputs: [x, w],
        inTypes: [t, tw],
        outTypes: [o],
        attrs: { transB },
      } = call,
      offsets = call.offsets(t);
    const K = boundOf(t.shape[1]),
      N = boundOf(o.shape[1]),
      out = new Float64Array(elements(o.shape)).fill(NaN);
    for (let z = 0; z < boundOf(tw.shape[0]); z++)
      for (let r = offsets[z]; r < offsets[z + 1]; r++)
        for (let j = 0; j < N; j++) {
          let total = 0;
          for (let k = 0; k < K; k++) total += x[r * K + k] * w[z * K * N + (transB ? j * K + k : k * N + j)];
          out[r * N + j] = total;
        }
    return [out];
  },
  groupedOuter(call) {
    const {
        inputs: [x, y],
        inTypes: [t],
        outTypes: [o],
      } = call,
      offsets = call.offsets(t);
    const [E, M, N] = o.shape.map(boundOf),
      out = new Float64Array(elements(o.shape));
    for (let z = 0; z < E; z++)
      for (let r = offsets[z]; r < offsets[z + 1]; r++) {
        for (let i = 0; i < M; i++) for (let j = 0; j < N; j++) out[(z * M + i) * N + j] += x[r * M + i] * y[r * N + j];
      }
    return [out];
  },
  groupedOuterOnto(call) {
    const {
        inputs: [x, y, , before],
        inTypes: [t],
        outTypes: [o],
      } = call,
      offsets = call.offsets(t);
    const [E, M, N] = o.shape.map(boundOf),
      out = before.slice(0, elements(o.shape));
    for (let z = 0; z < E; z++)
      for (let r = offsets[z]; r < offsets[z + 1]; r++) {
        for (let i = 0; i < M; i++) for (let j = 0; j < N; j++) out[(z * M + i) * N + j] += x[r * M + i] * y[r * N + j];
      }
    return [out];
  },
  matmul(call) {
    const {
      inputs: [a, b],
      inTypes: [ta, tb],
      outTypes: [type],
      attrs,
    } = call;
    const s = split(ta, tb, attrs);
    const [M, N, K] = [boundOf(s.m), boundOf(s.n), boundOf(s.ka)];
    const rows = s.batch.length === 0 ? call.rows({ dtype: type.dtype, shape: [s.m] }) : M;
    const depth = s.batch.length === 0 ? call.rows({ dtype: type.dtype, shape: [s.ka] }) : K;
    const out = new Float64Array(elements(type.shape));
    const batches = s.batch.reduce<number>((n, d) => n * boundOf(d), 1),
      times = isFloat(type.dtype) ? (x: number, y: number) => x * y : Math.imul;
    for (let z = 0; z < batches; z++)
      for (let i = 0; i < rows; i++)
        for (let j = 0; j < N; j++) {
          let total = 0;
          for (let k = 0; k < depth; k++) {
            total += times(
              a[z * M * K + (attrs.transA ? k * M + i : i * K + k)],
              b[z * K * N + (attrs.transB ? j * K + k : k * N + j)],
            );
          }
          out[(z * M + i) * N + j] = wrapped(total, type.dtype);
        }
    return [out];
  },
};
