// dynamoe bench: how fast this machine does it. `gemm`: one matrix product against the peak; `conv`: convolutions
// against a product of their size; `step`: a training step and its parts; `compile`: a cold start.
import { Option, type Command } from 'commander';
import { benchCompile, type BenchCompileFlags } from './bench-compile.ts';
import { benchConv, type ConvFlags } from './bench-conv.ts';
import { benchGemm, GEMM_DEVICES, type GemmFlags } from './bench-gemm.ts';
import { benchStep, type BenchStepFlags } from './bench-step.ts';
import { data, device, json, modelFlags, threads, whole, wholeList } from './flags.ts';

export function addBench(program: Command): void {
  const bench = program.command('bench').summary('measure speed').description('Measures speed on this machine.');
  bench.command('gemm').description('A float32 matrix product of random numbers, and the peak of fused multiply-adds, in turns in one process.')
    .option('--size <n>', 'rows, columns and depth', whole(1, 16384), 1024)
    .addOption(new Option('--device <name>', 'where to run').choices(GEMM_DEVICES).default('auto'))
    .option('--threads <list>', 'numbers of threads, such as 1,2 (default: 1 and all cores)', wholeList)
    .option('--rounds <n>', 'turns', whole(1), 12)
    .addOption(json())
    .action((flags: GemmFlags) => benchGemm(flags));
  bench.command('conv').description('Convolutions and their gradients, and a matrix product of their size, in turns in one process.')
    .addOption(new Option('--device <name>', 'where to run').choices(GEMM_DEVICES).default('auto'))
    .option('--rounds <n>', 'turns', whole(1), 30)
    .addOption(threads()).addOption(json())
    .action((flags: ConvFlags) => benchConv(flags));
  const compile = bench.command('compile').description('A cold start in a fresh process: from a model to the end of its first training step.')
    .argument('[config]', 'a .json or .ts file; without it the default language model')
    .addOption(data())
    .option('--batch <n>', 'samples in a step (default: 12)', whole(1))
    .option('--cold', 'with an empty cache of compiled kernels (native device)')
    .addOption(device()).addOption(threads()).addOption(json());
  modelFlags(compile).action((file: string | undefined, flags: BenchCompileFlags) => benchCompile(file, flags));
  const step = bench.command('step').description('Training steps of a model, after some to warm up; the same batch every time.')
    .argument('[config]', 'a .json or .ts file; without it the default language model')
    .addOption(data())
    .option('--steps <n>', 'steps to measure', whole(1), 50)
    .option('--batch <n>', 'samples in a step (default: 12)', whole(1))
    .option('--profile', 'a table of the kernels')
    .addOption(device()).addOption(threads()).addOption(json());
  modelFlags(step).action((file: string | undefined, flags: BenchStepFlags) => benchStep(file, flags));
}
