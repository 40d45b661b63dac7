// References of ops that make values.
import { KEPT } from '../ops/create/roundStochastic.ts';
import { threshold } from '../ops/create/dropout.ts';
import { boundOf, elements, stridesOf } from '../../base/shape.ts';
import { threefry, unit24 } from '../../base/random.ts';
import { isHalf } from '../../base/half.ts';
import { castValue } from '../../base/convert.ts';
import type { References } from './references.ts';

export const create: References = {
  constant: ({ attrs: { value, dtype }, outTypes }) => [
    new Float64Array(elements(outTypes[0].shape)).fill(isHalf(dtype) ? castValue(value, dtype, 'float64') : value),
  ],
  dropout({ inputs: [x, [seed], [step], [first] = [0]], attrs: { rate, key } }) {
    const least = threshold(rate);
    return [x.map((v, i) => (threefry(seed, key, step, first + i)[0] >>> 8 >= least ? v / (1 - rate) : 0))];
  },
  iota({ outTypes: [type], attrs: { axis } }) {
    const step = stridesOf(type.shape)[axis],
      size = boundOf(type.shape[axis]);
    return [Float64Array.from({ length: elements(type.shape) }, (_, i) => Math.floor(i / step) % size)];
  },
  oneHot({ inputs: [x], outTypes: [type], attrs: { classes } }) {
    const out = new Float64Array(elements(type.shape));
    x.forEach((c, i) => {
      if (c >= 0 && c < classes) out[i * classes + c] = 1;
    });
    return [out];
  },
  roundStochastic({ inputs: [x, [seed], [step], ...rows], outTypes: [type], attrs: { key, half } }) {
    const size = elements(type.shape.slice(1)),
      indexOf = (i: number): number => (rows.length > 0 ? rows[0][Math.floor(i / size)] * size + (i % size) : i);
    const value = new Float32Array(1),
      bits = new Int32Array(value.buffer);
    const upper = (b: number): number => {
      bits[0] = b & KEPT;
      return value[0];
    };
    return [
      x.map((v, i) => {
        value[0] = v;
        if (!Number.isFinite(value[0])) return v;
        const own = bits[0],
          word = threefry(seed, key, step, indexOf(i))[0];
        const rounded = upper(own + (half ? word >>> 16 : word & 0xffff));
        return Number.isFinite(rounded) ? rounded : upper(own);
      }),
    ];
  },
  uniform: ({ inputs: [, [seed], [step], [first] = [0]], outTypes: [type], attrs: { key } }) => [
    Float64Array.from({ length: elements(type.shape) }, (_, i) => unit24(threefry(seed, key, step, first + i)[0])),
  ],
};
