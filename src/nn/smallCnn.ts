// A small convolutional network for images: blocks of convolution, batch normalisation, ReLU and max-pooling, then a
// linear map.
import { UserError } from '../base/errors.ts';
import { checkOptions, shown, type KeysOf } from '../base/options.ts';
import { aList, aSize, needed } from '../base/kinds.ts';
import { boundOf } from '../base/shape.ts';
import type { Tensor } from '../graph/tensor.ts';
import { relu } from '../graph/ops/elementwise/relu.ts';
import { reshape } from '../graph/ops/shape/reshape.ts';
import { call } from '../trace/trace.ts';
import { BatchNorm } from './batchNorm.ts';
import { Conv2d } from './conv2d.ts';
import { Linear } from './linear.ts';
import { MaxPool2d } from './pool.ts';
import { Flatten, Sequential } from './sequential.ts';

export interface SmallCnnOptions {
  /** [height, width, channels] of an image. */
  readonly image: readonly [number, number, number];
  readonly outputs: number;
  /** Channels of each block, which halves height and width (rounded down); default [16, 32]. */
  readonly widths?: readonly number[];
}
const KEYS: KeysOf<SmallCnnOptions> = { image: needed(aList), outputs: needed(aSize), widths: aList };

/**
 * Images [N, height, width, channels], or as rows [N, height * width * channels] -> [N, outputs]. N may vary at run
 * time: as an expert it takes the rows that it is sent.
 */
export class SmallCNN {
  readonly blocks: readonly Sequential[];
  readonly head: Sequential;
  readonly #image: readonly number[];

  constructor(options: SmallCnnOptions) {
    checkOptions('SmallCNN', options, KEYS);
    const { image, outputs, widths = [16, 32] } = options;
    if (image.length !== 3)
      throw new UserError(`SmallCNN: image must be [height, width, channels], got [${image.map(String).join(', ')}]`);
    for (const n of [...image, ...widths])
      if (aSize(n) !== null)
        throw new UserError(
          `SmallCNN: sizes of the image and widths must be whole numbers of at least 1, got ${shown(n)}`,
        );
    const [height, width] = image.map((n) => n >> widths.length),
      channels = [image[2], ...widths];
    if (height < 1 || width < 1)
      throw new UserError(
        `SmallCNN: ${widths.length} blocks leave nothing of ${image[0]} x ${image[1]} images`,
        'use fewer widths',
      );
    this.blocks = widths.map(
      (n, i) =>
        new Sequential(
          new Conv2d(channels[i], n, 3, { padding: 'same', bias: false }),
          new BatchNorm(n),
          relu,
          new MaxPool2d(2),
        ),
    );
    const features = height * width * channels[widths.length];
    this.head = new Sequential(new Flatten(), new Linear(features, outputs, { role: 'head' }));
    this.#image = [...image];
  }

  forward(x: Tensor): Tensor {
    const images = reshape(x, [boundOf(x.shape[0]), ...this.#image]);
    return call(
      this.head,
      this.blocks.reduce((h, block) => call(block, h), images),
    );
  }
}
