// dynamoe inspect
import { Option, type Command } from 'commander';
import { configure } from '../train/configure.ts';
import { exampleBatch } from '../train/example-batch.ts';
import { openSession } from '../train/open.ts';
import { data, modelFlags, precision, whole, type TrainFlags } from './flags.ts';
import { refuseFlags } from './check-flags.ts';
import { MACHINES, printStage, STAGES, type Machine, type StageName } from './stages.ts';

interface InspectFlags extends Omit<TrainFlags, 'device'> {
  readonly stage: StageName;
  readonly device?: Machine;
  readonly eval?: boolean;
}

export function defineInspect(command: Command): void {
  command
    .argument('[config]', 'a .json or .ts file; without it the default language model')
    .description(
      'Prints the result of a stage of the compiler for one training step: the traced graph with gradients and ' +
        'updates, the graph after each pass, the graph after all passes, which values are stored, which values share ' +
        'a kernel (groups), the kernels, their source for a device, or the program with its memory and its steps.',
    )
    .addOption(new Option('--stage <name>', 'the stage').choices(STAGES).default('graph'))
    .addOption(
      new Option(
        '--device <name>',
        'with --stage schedule and --stage source: the device, native (C), wasm (WebAssembly text) or cuda ' +
          '(CUDA C++); default: native',
      ).choices(MACHINES),
    )
    .option('--eval', 'inspect the evaluation program instead, as eval and generate run it')
    .addOption(precision())
    .addOption(data())
    .option('--batch <n>', 'samples in a step (default: 12)', whole(1));
  modelFlags(command).action(
    async (file: string | undefined, { stage, device, eval: evaluation, ...flags }: InspectFlags) => {
      const { experiment } = await configure(file, flags);
      refuseFlags(command, {
        device:
          stage !== 'schedule' && stage !== 'source' && 'only --stage schedule and --stage source depend on the device',
        data:
          experiment.config.model && 'what is printed depends on the shape of a batch alone, and the model gives that',
      });
      // Tracing needs no device, and printing runs no kernel: the reference device is open at once.
      const session = await openSession(experiment, { device: 'reference', memory: Infinity, say: () => undefined });
      const batch = await exampleBatch(experiment, true);
      const graph = evaluation ? session.evaluationGraph(batch) : session.trainGraph(batch);
      process.stdout.write(`${printStage(graph, stage, device, evaluation !== true)}\n`);
      await session.close();
    },
  );
}
