// A rule that recompiles the model while it trains. If the router gives the second of a token's two experts little
// weight, the tokens of the layer go to one expert only: the layer then computes half as much.
import type { nn } from 'dynamoe';
import type { Rule } from 'dynamoe/recompile';

/**
 * below: the average weight of the second expert, from 0 to 0.5, under which one expert is enough. from: the first step
 * that may ask.
 */
export const oneExpert = ({ below = 0.3, from = 200 } = {}): Rule<nn.TransformerLM> => ({
  name: 'one expert is enough',
  trigger: (run) => run.step >= from && run.layer('blocks.1.moe').secondGateWeightEma < below,
  alter: ({ blocks }) => {
    blocks[1].moe!.topK = 1;
  },
});
