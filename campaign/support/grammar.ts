// Generates files that are well formed in their format and have arbitrary content: headers of safetensors,
// configurations, logs, traces. The result is text in latin1, one character per byte.
import fc from 'fast-check';

export interface Made {
  readonly format: 'safetensors' | 'config' | 'log' | 'trace';
  readonly text: string;
}

const number = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(0, 1, 2, 3, 4, 8, 16) },
  {
    weight: 2,
    arbitrary: fc.constantFrom(-1, 0.5, 2 ** 24, 1e9, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53, 1e21, 1e300, -1e300),
  },
);
const wild: fc.Arbitrary<unknown> = fc.oneof(
  { weight: 4, arbitrary: number },
  { weight: 1, arbitrary: fc.constantFrom<unknown>(null, true, '', 'x', 'dropless', 'auto', '__proto__') },
  { weight: 1, arbitrary: fc.array(number, { maxLength: 4 }) },
  { weight: 1, arbitrary: fc.constantFrom<unknown>({}, [], { a: 1 }, [[]]) },
);
const some = (keys: readonly string[], value: fc.Arbitrary<unknown> = wild): fc.Arbitrary<Record<string, unknown>> =>
  fc.dictionary(fc.constantFrom(...keys), value, { maxKeys: 5 });

const header = (json: string, body: number): string => {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(json)));
  return `${length.toString('latin1')}${Buffer.from(json).toString('latin1')}${'\x01'.repeat(body)}`;
};

const DTYPES = [
  'F32',
  'F64',
  'F16',
  'BF16',
  'I8',
  'I16',
  'I32',
  'I64',
  'U8',
  'U16',
  'U32',
  'U64',
  'BOOL',
  'F8_E4M3',
  'F8_E5M2',
  'F4',
  'C64',
  'f32',
  '',
];
const tensor = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      dtype: fc.constantFrom(...DTYPES),
      shape: fc.array(number, { maxLength: 3 }),
      data_offsets: fc.tuple(fc.nat(64), fc.nat(64)),
    }),
  },
  { weight: 1, arbitrary: wild },
);
/** Tensors whose offsets are consistent, one after the other. */
const fitting = fc
  .array(
    fc.record({
      name: fc.constantFrom('a', 'b', 'blocks.0.w', 'optim/m/a', 'a.b'),
      dtype: fc.constantFrom('F32', 'I32', 'U8', 'F64', 'BF16', 'I64'),
      count: fc.nat(6),
    }),
    { maxLength: 4 },
  )
  .map((list) => {
    const size: Readonly<Record<string, number>> = { F32: 4, I32: 4, U8: 1, F64: 8, BF16: 2, I64: 8 };
    let end = 0;
    const entries = list.map(({ name, dtype, count }) => {
      const begin = end;
      end += size[dtype] * count;
      return [name, { dtype, shape: [count], data_offsets: [begin, end] }] as const;
    });
    return { header: Object.fromEntries(entries), body: end };
  });
const metadata = fc.constantFrom<object>(
  {},
  { __metadata__: { format: 'pt' } },
  { __metadata__: null },
  { __metadata__: { dynamoe: '{"version":1,"step":3,"seed":1,"config":null,"optimizer":{},"data":null}' } },
  { __metadata__: { dynamoe: '{"version":1,"step":-1,"seed":"x"}' } },
  { __metadata__: { dynamoe: 'null' } },
  {
    __metadata__: {
      dynamoe: '{"version":1,"step":0,"seed":1,"plan":{"knobs":{"blocks.0.moe":{"topK":9}},"engine":{"log":1}}}',
    },
  },
  { __metadata__: 1 },
);
const safetensors = fc.oneof(
  fc
    .tuple(
      metadata,
      fc.dictionary(fc.constantFrom('a', 'b', '', '__proto__', 'optim/m/a'), tensor, { maxKeys: 3 }),
      fc.nat(64),
    )
    .map(([meta, tensors, body]) => header(JSON.stringify({ ...meta, ...tensors }), body)),
  fc
    .tuple(metadata, fitting, fc.constantFrom(0, 0, 0, 1, 7))
    .map(([meta, { header: tensors, body }, more]) => header(JSON.stringify({ ...meta, ...tensors }), body + more)),
);

const moe = fc.oneof(
  fc.constantFrom<unknown>(null, 1),
  some([
    'experts',
    'active',
    'topK',
    'hidden',
    'capacity',
    'overflow',
    'priority',
    'dispatch',
    'recompute',
    'chunks',
    'shared',
    'activation',
    'bias',
    'normalise',
    'balance',
    'zLoss',
  ]),
);
const model = fc.oneof(
  fc.constantFrom<unknown>(null, []),
  fc
    .tuple(
      some(['vocab', 'layers', 'dModel', 'heads', 'kvHeads', 'context', 'hidden', 'dropout', 'recompute', 'tied']),
      moe,
    )
    .map(([m, inner]) => ({ ...m, moe: inner })),
);
const optimizer = some([
  'name',
  'lr',
  'warmup',
  'schedule',
  'floor',
  'betas',
  'eps',
  'weightDecay',
  'momentum',
  'nesterov',
  'clip',
]);
const config = fc
  .tuple(
    some([
      'data',
      'loss',
      'context',
      'batch',
      'steps',
      'seed',
      'evalEvery',
      'evalBatch',
      'saveEvery',
      'accumulate',
      'precision',
      'recompile',
      'device',
      'threads',
      'memory',
    ]),
    fc.option(model),
    fc.option(optimizer),
  )
  .map(([c, m, o]) => JSON.stringify({ ...c, ...(m !== null && { model: m }), ...(o && { optimizer: o }) }));

const event = fc
  .tuple(
    fc.constantFrom('start', 'step', 'eval', 'plan', 'recompile', 'checkpoint', 'done', 'stopped', 'failed', 'other'),
    some([
      'step',
      'loss',
      'time',
      'ms',
      'grad_norm',
      'lr',
      'rss',
      'load',
      'layers',
      'aux',
      'val_loss',
      'metrics',
      'bytes',
      'from',
      'rule',
      'kept',
      'seconds',
      'peak_bytes',
      'error',
    ]),
  )
  .map(([name, fields]) => JSON.stringify({ event: name, ...fields }));
const log = fc
  .array(
    fc.oneof(
      { weight: 5, arbitrary: event },
      { weight: 1, arbitrary: fc.constantFrom('', 'null', '1', '[]', '{', '{"event":"step","step":2,"loss":') },
    ),
    { maxLength: 8 },
  )
  .map((lines) => `${lines.join('\n')}\n`);

const path = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom('moe', 'blocks.0.moe', 'blocks.1.moe') },
  {
    weight: 1,
    arbitrary: fc
      .array(fc.constantFrom('moe', 'gate', 'experts', 'w1', 'topK', 'shared', 'constructor', '__proto__', '', '0'), {
        minLength: 1,
        maxLength: 3,
      })
      .map((names) => names.join('.')),
  },
);
const layer = fc
  .tuple(
    fc.record({
      path,
      experts: fc.constantFrom(1, 2, 4),
      k: fc.constantFrom(1, 2),
      capacity: fc.constantFrom<unknown>('dropless', 0, 1, 1.5, [1, 1], 1e300),
      overflow: fc.constantFrom('drop', 'spill'),
      dispatch: fc.constantFrom('ragged', 'padded', 'einsum', 'dense'),
      dModel: fc.constantFrom(4, 64, 2 ** 24),
      hidden: fc.constantFrom(4, 64, 2 ** 24),
    }),
    some(['experts', 'k', 'dModel', 'hidden', 'capacity']),
  )
  .map(([l, odd]) => ({ ...l, ...(Object.keys(odd).length > 3 && odd) }));
const loadsOf = (count: unknown): fc.Arbitrary<readonly number[]> => {
  const size = Number.isInteger(count) && Number(count) <= 64 ? Math.max(0, Number(count)) : 1;
  return fc.array(fc.oneof({ weight: 9, arbitrary: fc.constantFrom(0, 0, 1, 3, 16, 2 ** 24) }, number), {
    minLength: size,
    maxLength: size,
  });
};
/** Most loads fit the layers, so that most traces are replayed. */
const trace = fc
  .array(fc.oneof({ weight: 6, arbitrary: layer }, { weight: 1, arbitrary: wild }), { minLength: 1, maxLength: 2 })
  .chain((layers) => {
    const fitting = fc.tuple(...layers.map((l) => loadsOf((l as { experts?: unknown } | null)?.experts))),
      any = fc.array(fc.array(number, { minLength: 1, maxLength: 4 }), { maxLength: 2 });
    return fc.tuple(
      fc.constant(layers),
      fc.array(fc.oneof({ weight: 9, arbitrary: fitting }, { weight: 1, arbitrary: any }), { maxLength: 5 }),
    );
  })
  .map(([layers, loads]) =>
    [
      JSON.stringify({ event: 'trace', version: 1, layers }),
      ...loads.map((load, i) => JSON.stringify({ step: i + 1, load })),
      '',
    ].join('\n'),
  );

const of = (format: Made['format'], text: fc.Arbitrary<string>): fc.Arbitrary<Made> =>
  text.map((made) => ({ format, text: made }));
export const grammar: fc.Arbitrary<Made> = fc.oneof(
  of('safetensors', safetensors),
  of('config', config),
  of('log', log),
  of('trace', trace),
);
