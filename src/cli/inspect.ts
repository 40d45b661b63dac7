// dynamoe inspect
import { Option, type Command } from 'commander';
import { compileGraph, printStage, STAGES, type StageName } from '../pipeline.ts';
import { configure } from '../train/configure.ts';
import { exampleBatch } from '../train/example-batch.ts';
import { openSession } from '../train/open.ts';
import { data, modelFlags, refuseFlags, whole, type TrainFlags } from './flags.ts';

interface InspectFlags extends TrainFlags {
  readonly stage: StageName;
  readonly eval?: boolean;
}

export function addInspect(program: Command): void {
  const command = program
    .command('inspect')
    .summary('show what the compiler makes of a model')
    .argument('[config]', 'a .json or .ts file; without it the default language model')
    .description(
      'Prints what leaves a stage of the compiler for one training step: the graph with gradients and updates, ' +
        'the kernels, their C source, or the program with its memory and its steps.',
    )
    .addOption(new Option('--stage <name>', 'the stage').choices(STAGES).default('graph'))
    .option('--eval', 'inspect the evaluation program instead')
    .addOption(data())
    .option('--batch <n>', 'samples in a step (default: 12)', whole(1));
  modelFlags(command).action(async (file: string | undefined, { stage, eval: evaluation, ...flags }: InspectFlags) => {
    const { experiment } = await configure(file, flags);
    refuseFlags(command, {
      data:
        experiment.config.model && 'what is printed depends on the shape of a batch alone, and the model gives that',
    });
    // The graph needs no device, and the printer no compiler.
    const session = await openSession(experiment, { device: 'reference', memory: Infinity, say: () => undefined });
    const batch = await exampleBatch(experiment, true);
    const graph = evaluation ? session.evaluationGraph(batch) : session.trainGraph(batch);
    process.stdout.write(`${printStage(compileGraph(graph), stage)}\n`);
    await session.close();
  });
}
