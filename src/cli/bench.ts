// dynamoe bench: measures speed and memory on this machine. `gemm`: a matrix product against the machine's peak;
// `conv`: convolutions against a product of the same size; `layer`: one mixture-of-experts layer; `scaling`: layers of
// many sizes; `memory`: how many experts fit; `step`: a training step of a model and its parts; `compile`: a cold
// start; `ranks`: a step over ranks against the same work alone; `recompile`: capacities set by a policy against fixed
// ones; `routing`: remembered choices of experts against live ones; `sorting`: what sorts choices by expert.
import { InvalidArgumentError, Option, type Command } from 'commander';
import { benchCompile, type BenchCompileFlags } from '../bench/compile.ts';
import { benchConv, type ConvFlags } from '../bench/conv.ts';
import { benchGemm, GEMM_DEVICES, type GemmFlags } from '../bench/gemm.ts';
import { benchLayer, type LayerFlags } from '../bench/layer.ts';
import { benchMemory, type MemoryFlags } from '../bench/memory.ts';
import { benchRanks, type RanksFlags } from '../bench/ranks.ts';
import { benchRecompile, type RecompileFlags } from '../bench/recompile.ts';
import { benchRouting, type RoutingFlags } from '../bench/routing.ts';
import { benchScaling, CURVES, type Curve, type ScalingFlags } from '../bench/scaling.ts';
import { benchSorting, type SortingFlags } from '../bench/sorting.ts';
import { benchStep, type BenchStepFlags } from '../bench/step.ts';
import {
  capacityOf,
  data,
  device,
  json,
  modelFlags,
  precision,
  real,
  realList,
  threads,
  whole,
  wholeList,
} from './flags.ts';
import { refuseFlags } from './check-flags.ts';
import { OPTIMIZERS, PASSES } from '../bench/layer-work.ts';
import { ACTIVATIONS } from '../nn/moe/experts.ts';
import { OVERFLOWS } from '../nn/moe/routing.ts';
import { DISPATCHES } from '../nn/moe/strategies.ts';

/** A device that runs compiled programs: all but the reference. */
const compiledDevice = (): Option =>
  new Option('--device <name>', 'where to run').choices(GEMM_DEVICES).default('auto');

export function defineBench(bench: Command): void {
  bench.description('Measures speed and memory on this machine.');
  bench
    .command('gemm')
    .description(
      'Times a float32 matrix product of random numbers and the peak of fused multiply-adds, alternating in one ' +
        'process.',
    )
    .option('--size <n>', 'rows, columns and depth', whole(1, 16384), 1024)
    .addOption(compiledDevice())
    .option('--threads <list>', 'numbers of threads, such as 1,2 (default: 1 and all cores)', wholeList)
    .option('--rounds <n>', 'measurements of each', whole(1), 12)
    .addOption(json())
    .action((flags: GemmFlags) => benchGemm(flags));
  bench
    .command('conv')
    .description(
      'Times convolutions, their gradients, and a matrix product of the same size, alternating in one process.',
    )
    .addOption(compiledDevice())
    .option('--rounds <n>', 'measurements of each', whole(1), 30)
    .addOption(threads())
    .addOption(json())
    .action((flags: ConvFlags) => benchConv(flags));
  const layer: Command = layerFlags(
    bench
      .command('layer')
      .description(
        "Times one mixture-of-experts layer: steps, useful FLOPs against the machine's peak, memory. A training step " +
          "includes the gradient to the layer's input.",
      ),
  )
    .option('--experts <n>', 'experts; 0: a dense network with the same active FLOPs', whole(0), 8)
    .option('--steps <n>', 'steps to measure, after some to warm up', whole(1), 20)
    .option('--products', "also time the layer's matrix products alone, alternating with steps")
    .option('--profile', 'print a table of the kernels')
    .action((flags: LayerFlags) => {
      refuseFlags(layer, {
        ...unusedOfLayer(flags),
        products: flags.experts === 0 && 'a dense network has no products of experts',
      });
      return benchLayer(flags);
    });
  const memory: Command = layerFlags(
    bench
      .command('memory')
      .description(
        'Finds the largest number of experts that trains within a memory budget. Each number is tried in its own ' +
          'process, whose memory is measured.',
      ),
  )
    .requiredOption(
      '--budget <MiB>',
      'memory in addition to what the process uses before any parameter exists (required)',
      whole(1),
    )
    .option('--most <n>', 'the largest number of experts to try', whole(1, 65536), 4096)
    .option('--steps <n>', 'steps that must succeed', whole(1), 3)
    .action((flags: MemoryFlags) => {
      refuseFlags(memory, unusedOfLayer({ ...flags, experts: 1 }));
      return benchMemory(flags);
    });
  bench
    .command('scaling')
    .description(
      'Shows how the cost of a layer grows with tokens (64 to 8192), experts (1 to 256), width (64 to 1024) and ' +
        'threads: a table for each.',
    )
    .addOption(
      new Option('--curve <list>', `tables to measure: some of ${CURVES.join(',')}`)
        .argParser(curveList)
        .default([...CURVES], 'all'),
    )
    .option('--rounds <n>', 'measurements of each layer', whole(1), 5)
    .addOption(compiledDevice())
    .addOption(threads())
    .addOption(json())
    .action((flags: ScalingFlags) => benchScaling(flags));
  bench
    .command('routing')
    .description(
      'Compares a layer whose choices of experts are live, watched (also remembered) and cached (taken from the ' +
        'memory), alternating on the same batches: steps, kernels of the routing, time until rows are sorted.',
    )
    .option('--samples <n>', 'samples per step', whole(1), 32)
    .option('--tokens <n>', 'tokens per sample', whole(1), 64)
    .option('--d-model <n>', 'width', whole(1), 128)
    .option('--d-ff <n>', 'hidden size of an expert', whole(1), 512)
    .option('--experts <n>', 'experts', whole(1), 8)
    .option('--top-k <n>', 'experts per token', whole(1), 2)
    .option('--remember <n>', 'slots of the memory', whole(1), 65536)
    .option('--rounds <n>', 'measurements of each', whole(1), 10)
    .addOption(compiledDevice())
    .addOption(threads())
    .addOption(json())
    .action((flags: RoutingFlags) => benchRouting(flags));
  bench
    .command('sorting')
    .description(
      'Times what sorts choices by expert and moves rows into capacities, for several numbers of threads, ' +
        'alternating in one process.',
    )
    .option('--tokens <n>', 'tokens', whole(1), 8192)
    .option('--experts <n>', 'experts', whole(1), 256)
    .option('--top-k <n>', 'experts per token', whole(1), 8)
    .addOption(compiledDevice())
    .option('--threads <list>', 'numbers of threads, such as 1,2 (default: 1 and all cores)', wholeList)
    .option('--rounds <n>', 'turns of each', whole(1), 40)
    .addOption(json())
    .action((flags: SortingFlags) => benchSorting(flags));
  bench
    .command('ranks')
    .description(
      'Times a training step over ranks against the same work without ranks, alternating. Started by mpirun: ' +
        'mpirun -n 2 dynamoe bench ranks.',
    )
    .option('--tokens <n>', 'tokens of each rank (--strong: of all ranks together)', whole(1), 1024)
    .option('--width <n>', 'width of the model', whole(1), 512)
    .option('--hidden <n>', 'hidden size of an expert', whole(1), 2048)
    .option('--experts <n>', 'number of experts', whole(1), 8)
    .option('--top-k <k>', 'experts a token', whole(1), 2)
    .option('--threads <n>', 'threads of each rank', whole(1), 1)
    .option('--rounds <n>', 'measurements of each', whole(1), 20)
    .option('--skew <s>', 'bias of the router, not trained, for expert e: -S ln(e + 1)', real(0), 0)
    .option('--dealt', 'deal experts to ranks in the order of their loads with --skew, back and forth')
    .option('--interface <name>', 'a network interface of each rank, to compare its bytes with those that ranks count')
    .option('--strong', 'the same work on one process with as many threads, instead of the same work a rank')
    .addOption(json())
    .action((flags: RanksFlags) => benchRanks(flags));
  const recompile: Command = bench
    .command('recompile')
    .description(
      'Compares capacities that a policy sets during the run with fixed capacity factors, for a layer with a skewed ' +
        'load, alternating on the same batches in one process.',
    )
    .option('--tokens <n>', 'samples per step', whole(1), 512)
    .option('--d-model <n>', 'width', whole(1), 1024)
    .option('--d-ff <n>', 'hidden size of an expert', whole(1), 4096)
    .option('--experts <n>', 'experts', whole(1), 16)
    .option('--top-k <n>', 'experts per sample', whole(1), 2)
    .addOption(
      new Option('--dispatch <name>', 'how samples are moved to experts').choices(DISPATCHES).default('padded'),
    )
    .addOption(
      new Option('--overflow <what>', 'what happens to samples beyond a capacity').choices(OVERFLOWS).default('drop'),
    )
    .option('--modules', 'make each expert a module of its own, not part of a bank')
    .option('--skew <s>', 'bias of the router for the expert of rank r: -S ln(r)', real(0), 1)
    .option('--drift <n>', 'steps over which ranks gradually move on by a third of the experts; 0: never', whole(0), 0)
    .option('--policy <names>', 'policies that recompile', 'adaptCapacity')
    .addOption(
      new Option('--alphas <list>', 'fixed capacity factors')
        .argParser(realList)
        .default([1, 1.25, 1.5, 2, 3, 4, 6, 8], '1,1.25,1.5,2,3,4,6,8'),
    )
    .option('--from <alpha>', 'the capacity factor that the policy starts from', real(0), 2)
    .option('--warm-up <n>', 'unmeasured steps of the policy at the start', whole(0), 64)
    .option('--steps <n>', 'steps to measure', whole(1), 20)
    .option('--every <n>', 'steps between two measurements of the fixed factors', whole(1), 1)
    .addOption(compiledDevice())
    .addOption(threads())
    .addOption(json())
    .action((flags: RecompileFlags) => {
      refuseFlags(recompile, { drift: flags.skew === 0 && 'without skew, experts have no ranks' });
      return benchRecompile(flags);
    });
  const compile = bench
    .command('compile')
    .description('Times a cold start in a new process: from a model to the end of its first training step.')
    .argument('[config]', 'a .json or .ts file; without it the default language model')
    .addOption(data())
    .option('--batch <n>', 'samples in a step (default: 12)', whole(1))
    .option('--cold', 'start with an empty cache of compiled kernels (native device)')
    .addOption(device())
    .addOption(threads())
    .addOption(json());
  modelFlags(compile).action((file: string | undefined, flags: BenchCompileFlags) => {
    refuseFlags(compile, {
      cold:
        (flags.device === 'wasm' || flags.device === 'reference') &&
        `only the native device and GPUs keep compiled kernels, not ${flags.device}`,
    });
    return benchCompile(file, flags);
  });
  const step = bench
    .command('step')
    .description('Times training steps of a model, after some warm-up steps; the batch is always the same.')
    .argument('[config]', 'a .json or .ts file; without it the default language model')
    .addOption(data())
    .option('--steps <n>', 'steps to measure', whole(1), 50)
    .option('--batch <n>', 'samples in a step (default: 12)', whole(1))
    .option('--profile', 'print a table of the kernels')
    .addOption(device())
    .addOption(threads())
    .addOption(json());
  modelFlags(step).action((file: string | undefined, flags: BenchStepFlags) => {
    refuseFlags(step, { profile: flags.device === 'reference' && 'the reference device has no kernels' });
    return benchStep(file, flags);
  });
}

/** Flags that describe a layer and where it runs. */
function layerFlags(command: Command): Command {
  return command
    .option('--tokens <n>', 'tokens per step', whole(1), 2048)
    .option('--d-model <n>', 'width', whole(1), 256)
    .option('--d-ff <n>', 'hidden size of an expert', whole(1), 1024)
    .option('--top-k <n>', 'experts per token', whole(1), 2)
    .option(
      '--capacity-factor <c>',
      'capacity of an expert as a factor on its even share of rows; or dropless',
      capacityOf,
      'dropless',
    )
    .addOption(
      new Option('--overflow <name>', 'what happens to rows beyond the capacity').choices(OVERFLOWS).default('drop'),
    )
    .addOption(new Option('--dispatch <name>', 'how tokens are moved to experts').choices(DISPATCHES).default('ragged'))
    .option('--skew <s>', 'bias of the router for expert e: -S ln(e + 1)', real(0), 0)
    .addOption(
      new Option('--activation <name>', 'activation between the two products').choices(ACTIVATIONS).default('relu'),
    )
    .addOption(new Option('--optimizer <name>', 'optimizer of the weights').choices(OPTIMIZERS).default('sgd'))
    .option('--eager', 'update each weight as soon as its gradient is computed')
    .option('--recompute', 'compute hidden values again for gradients instead of keeping them')
    .option(
      '--chunks <n>',
      'parts in which experts process their rows; only the hidden values of one part are in memory',
      whole(1),
    )
    .addOption(
      new Option('--pass <name>', 'a training step, or only the forward pass').choices(PASSES).default('train'),
    )
    .addOption(precision())
    .addOption(compiledDevice())
    .addOption(threads())
    .addOption(json());
}

/** Flags of `layer` and `memory` that have no effect beside the others. */
function unusedOfLayer({
  experts,
  capacityFactor,
  pass,
}: Pick<LayerFlags, 'experts' | 'capacityFactor' | 'pass'>): Record<string, string | false> {
  const dense = experts === 0 && 'a dense network (--experts 0) has no experts to choose',
    forward = pass === 'forward' && 'nothing is updated in a forward pass';
  return {
    capacityFactor: dense,
    dispatch: dense,
    skew: dense,
    overflow: dense || (capacityFactor === 'dropless' && 'a dropless layer has no capacity: set --capacity-factor'),
    optimizer: forward,
    eager: forward,
    recompute: pass === 'forward' && 'a forward pass keeps nothing for gradients',
  };
}

function curveList(text: string): Curve[] {
  return text.split(',').map((name) => {
    const found = CURVES.find((c) => c === name);
    if (!found) throw new InvalidArgumentError(`no curve named ${name}; there are ${CURVES.join(', ')}`);
    return found;
  });
}
