// `node bench/gpu/registers.ts [--cases N]`: what nvcc makes of the text of kernels, in a table: those of the default
// language model, of the classifier of digits, and of N conformance cases of each family (default: 1).
import { parseArgs } from 'node:util';
import { compileWithNvcc, noNvcc, type Use } from '../../tests/support/cuda/nvcc.ts';
import { conformanceKernels, modelKernels } from '../../tests/support/cuda/kernels.ts';

const SEED = 1;

const { values } = parseArgs({ options: { cases: { type: 'string', default: '1' } } });
if (noNvcc !== false) throw new Error(noNvcc);
const groups = [
  ...(await modelKernels()),
  { name: `conformance, ${values.cases} of each family`, kernels: conformanceKernels(SEED, Number(values.cases)) },
];

const middle = (uses: readonly Use[], of: (u: Use) => number): number =>
  uses.map(of).sort((a, b) => a - b)[Math.floor(uses.length / 2)];
const most = (uses: readonly Use[], of: (u: Use) => number): number => Math.max(...uses.map(of));

console.log(
  '| kernels of | kernels | registers: median, most | shared bytes: most | with arrays in memory | that spill |',
);
console.log('| --- | ---: | ---: | ---: | ---: | ---: |');
for (const { name, kernels } of groups) {
  const uses = await compileWithNvcc(kernels),
    cells = [
      uses.length,
      `${middle(uses, (u) => u.registers)}, ${most(uses, (u) => u.registers)}`,
      most(uses, (u) => u.shared),
      uses.filter((u) => u.stack > 0).length,
      uses.filter((u) => u.spilled > 0).length,
    ];
  console.log(`| ${[name, ...cells].join(' | ')} |`);
  for (const u of uses.filter((x) => x.spilled > 0)) console.log(`spilled: ${JSON.stringify(u)}`);
}
