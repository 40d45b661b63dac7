// A decoder-only language model whose feed-forward layers are mixtures of experts (or dense).
import { UserError } from '../base/errors.ts';
import { fixedCopy } from '../base/fixed.ts';
import { checkOptions, refuseUnused, type KeysOf } from '../base/options.ts';
import { aFlag, aNumber, anything, aSize, aWhole, needed } from '../base/kinds.ts';
import type { Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { equal } from '../graph/ops/elementwise/equal.ts';
import { gelu } from '../graph/ops/elementwise/gelu.ts';
import { logicalNot } from '../graph/ops/elementwise/logicalNot.ts';
import { matmul } from '../graph/ops/matmul/matmul.ts';
import type { KnobRules } from '../trace/knobs.ts';
import { call, traceOf, use } from '../trace/trace.ts';
import { noticeWrites } from '../trace/user-values.ts';
import { CausalSelfAttention, type Cached } from './attention.ts';
import { Dropout } from './dropout.ts';
import { Embedding } from './embedding.ts';
import { Linear } from './linear.ts';
import { MoE, MOST_EXPERTS, type MoEOptions } from './moe/moe.ts';
import { RMSNorm } from './norm.ts';

export interface BlockOptions {
  readonly dModel: number;
  readonly layers: number;
  readonly heads: number;
  /** Heads of keys and values (grouped-query attention); default `heads`. */
  readonly kvHeads?: number;
  /** Longest sequence. */
  readonly context: number;
  /** Feed-forward layers as mixtures of experts; without it dense layers of width `hidden` (default 4 dModel). */
  readonly moe?: Omit<MoEOptions, 'dModel'>;
  readonly hidden?: number;
  readonly dropout?: number;
  /**
   * Whether blocks store only their input for gradients and recompute the rest: less memory, more time, the same bits;
   * default false.
   */
  readonly recompute?: boolean;
}
export interface TransformerOptions extends BlockOptions {
  readonly vocab: number;
  /** The output projection is the embedding's table. */
  readonly tied?: boolean;
  /**
   * The id of tokens that are padding: mixtures of experts leave them out. They count in no load, no loss of the
   * layers and no capacity, and the layers give zeros for them. Default: none. Attention does not leave them out:
   * tokens after padding attend to it, so it must stand behind the tokens of its sequence, where causal attention
   * keeps it from them. A loss ignores it only with `ignoreIndex`; a config sets both. Needs `moe`.
   */
  readonly padding?: number;
}
const BLOCK_KEYS: KeysOf<BlockOptions> = {
  dModel: needed(aSize),
  layers: needed(aSize),
  heads: needed(aSize),
  kvHeads: aSize,
  context: needed(aSize),
  moe: anything,
  hidden: aSize,
  dropout: aNumber,
  recompute: aFlag,
};
const KEYS: KeysOf<TransformerOptions> = { vocab: needed(aSize), ...BLOCK_KEYS, tied: aFlag, padding: aWhole(0) };

function checkBlock(where: string, { moe, ...options }: BlockOptions): void {
  if (!moe) return;
  refuseUnused(where, options, {
    hidden:
      'it is the width of dense layers, and the feed-forward layers are mixtures: moe.hidden is that of an expert',
  });
  refuseUnused(`${where}: moe`, moe as { readonly dModel?: number }, {
    dModel: "the layer's width is that of the model",
  });
}

/** x W1, GELU, W2. */
class FeedForward {
  readonly up: Linear;
  readonly down: Linear;
  constructor(width: number, hidden: number, outStd: number) {
    this.up = new Linear(width, hidden, { bias: false });
    this.down = new Linear(hidden, width, { bias: false, std: outStd });
  }

  forward(x: Tensor): Tensor {
    return call(this.down, gelu(call(this.up, x)));
  }
}

/** x + attention(norm(x)), then x + feed-forward(norm(x)). */
export class TransformerBlock {
  static readonly knobs: KnobRules = { recompute: () => true };
  static {
    noticeWrites(TransformerBlock);
  }
  readonly norm1: RMSNorm;
  readonly attention: CausalSelfAttention;
  readonly norm2: RMSNorm;
  readonly moe: MoE | null;
  readonly mlp: FeedForward | null;
  readonly dropout: Dropout;
  #recompute = false;

  constructor(options: BlockOptions) {
    checkOptions('TransformerBlock', options, BLOCK_KEYS);
    checkBlock('TransformerBlock', options);
    const {
      dModel,
      layers,
      heads,
      kvHeads = heads,
      context,
      moe,
      hidden = 4 * dModel,
      dropout = 0,
      recompute = false,
    } = options;
    // Residual branches start with small weights, so that activations do not grow with depth (GPT-2).
    const branch = (inputs: number): number => 1 / Math.sqrt(inputs * 2 * layers);
    this.norm1 = new RMSNorm(dModel);
    this.attention = new CausalSelfAttention({ dModel, heads, kvHeads, context, outStd: branch(dModel) });
    this.norm2 = new RMSNorm(dModel);
    const bank =
      moe && typeof moe.experts === 'number' && typeof moe.hidden === 'number' ? { outStd: branch(moe.hidden) } : {};
    this.moe = moe ? new MoE({ dModel, ...bank, ...moe }) : null;
    this.mlp = moe ? null : new FeedForward(dModel, hidden, branch(hidden));
    this.dropout = new Dropout(dropout);
    this.recompute = recompute;
  }

  /** Whether only the block's input is stored for gradients. */
  get recompute(): boolean {
    return this.#recompute;
  }
  set recompute(recompute: boolean) {
    if (typeof recompute !== 'boolean')
      throw new UserError(`TransformerBlock: recompute must be true or false, got ${String(recompute)}`);
    this.#recompute = recompute;
  }

  /**
   * ids int32 [batch, time]: the tokens' ids, for a HashRouter. mask bool [batch, time]: which tokens take part in the
   * mixture of experts.
   */
  forward(x: Tensor, cached?: Cached, ids?: Tensor, mask?: Tensor): Tensor {
    const run = (): Tensor => this.#forward(x, cached, ids, mask);
    return this.#recompute ? traceOf(x).recomputed(run) : run();
  }

  #forward(x: Tensor, cached?: Cached, ids?: Tensor, mask?: Tensor): Tensor {
    const a = add(x, call(this.dropout, call(this.attention, call(this.norm1, x), cached)));
    const h = call(this.norm2, a);
    const f = this.moe ? call(this.moe, h, ids, mask) : this.mlp ? call(this.mlp, h) : h;
    return add(a, call(this.dropout, f));
  }
}

/** More take minutes to build and to trace. */
const MOST_LAYERS = 10_000;

/** int32 [batch, time] -> logits [batch, time, vocab]. */
export class TransformerLM {
  readonly embedding: Embedding;
  readonly blocks: TransformerBlock[];
  readonly norm: RMSNorm;
  readonly head: Linear | null;
  readonly #options: TransformerOptions;

  constructor(options: TransformerOptions) {
    checkOptions('TransformerLM', options, KEYS);
    checkBlock('TransformerLM', options);
    const { vocab, tied = false, padding, ...block } = options,
      { dModel, layers } = block;
    refuseUnused('TransformerLM', options, {
      padding: !options.moe && 'mixtures of experts leave padding out, and the feed-forward layers are dense',
    });
    if (padding !== undefined && padding >= vocab)
      throw new UserError(
        `TransformerLM: padding must be the id of a token, 0..${vocab - 1}, got ${padding}`,
        'a token of its own for padding makes vocab larger by 1',
      );
    const experts = typeof options.moe?.experts === 'number' ? options.moe.experts : 1;
    if (layers > MOST_LAYERS || layers * experts > MOST_EXPERTS) {
      throw new UserError(
        `TransformerLM: at most ${MOST_LAYERS} layers and ${MOST_EXPERTS} experts in all can be ` +
          `built, got ${layers} layers${experts > 1 ? ` of ${experts} experts` : ''}`,
      );
    }
    this.embedding = new Embedding(vocab, dModel, { std: tied ? 1 / Math.sqrt(dModel) : 1 });
    this.blocks = Array.from({ length: layers }, () => new TransformerBlock(block));
    this.norm = new RMSNorm(dModel);
    this.head = tied ? null : new Linear(dModel, vocab, { bias: false, role: 'head' });
    this.#options = fixedCopy(options);
  }

  get options(): TransformerOptions {
    return this.#options;
  }

  /** `forward` also takes rows: tokens int32 [rows], segmented by sequence, gives logits [rows, vocab]. */
  get sequences(): { readonly longest: number } {
    return { longest: this.#options.context };
  }

  forward(tokens: Tensor, cached?: Cached): Tensor {
    const { padding } = this.#options,
      mask = padding === undefined ? undefined : logicalNot(equal(tokens, padding)),
      start = call(this.embedding, tokens),
      x = this.blocks.reduce((h, block) => call(block, h, cached, tokens, mask), start);
    const h = call(this.norm, x);
    return this.head ? call(this.head, h) : matmul(h, use(h, this.embedding.weight), { transB: true });
  }
}
