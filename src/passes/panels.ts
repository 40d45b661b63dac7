// The layout `panels` of weights [.., K, N]: the columns of each matrix in panels of `width` columns, each panel its K
// rows one after the other; the last panel is filled up with zeros. In memory a weight is then
// [.., ceil(N / width), K, width]. A product whose inner loop takes `width` columns at a time reads memory in order, be
// it for one row of the other operand or for thousands. Everywhere else, on hosts and in checkpoints, a weight is the
// logical value in rows. Only devices with such products contain this file.
import { bytesPer, hostArray, type TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { boundOf, elements, type TensorType } from '../base/shape.ts';
import type { Graph, Node, StateInput, ValueId } from '../graph/graph.ts';
import type { Panels } from '../graph/limits.ts';
import type { Layout } from '../graph/state.ts';

/** Memory that may be lost for columns that fill up the last panel, as a share of the weight. */
const LOST = 1 / 8;

/** Roles of states that products read. */
const READ: readonly string[] = ['weight', 'router', 'head'];

export function panelsOf(width: number): Panels {
  /** The matrices of a type: how many, their rows and columns, and how many elements each takes in memory. */
  const matrices = ({ shape }: TensorType): { count: number; rows: number; columns: number; each: number } => {
    const [rows, columns] = shape.slice(-2).map(boundOf);
    return {
      count: elements(shape.slice(0, -2)),
      rows,
      columns,
      each: Math.ceil(columns / width) * width * rows,
    };
  };

  // Both loops go over all elements of a weight, row by row: a call for each row of a panel, or going panel by panel,
  // would take twice the time.

  /** Copies a matrix from rows to panels. `at`: where its rows begin. */
  const pack = (type: TensorType, inRows: TypedArray, at: number, inPanels: TypedArray): void => {
    const { rows, columns } = matrices(type);
    for (let k = 0; k < rows; k++)
      for (let j = 0, panel = k * width, row = at + k * columns; j < columns; j += width, panel += rows * width)
        for (let q = 0, count = Math.min(width, columns - j); q < count; q++) inPanels[panel + q] = inRows[row + j + q];
  };

  /** Copies a matrix from panels to rows. `from`, `at`: where its panels and its rows begin. */
  const unpack = (type: TensorType, inPanels: TypedArray, from: number, inRows: TypedArray, at: number): void => {
    const { rows, columns } = matrices(type);
    for (let k = 0; k < rows; k++)
      for (let j = 0, panel = from + k * width, row = at + k * columns; j < columns; j += width, panel += rows * width)
        for (let q = 0, count = Math.min(width, columns - j); q < count; q++) inRows[row + j + q] = inPanels[panel + q];
  };

  return {
    width,

    bytes(type) {
      const { count, each } = matrices(type);
      return count * each * bytesPer(type.dtype);
    },

    index(e, type, index) {
      const { rows, columns, each } = matrices(type),
        [k, j] = index.slice(-2);
      let matrix = e.index(0);
      index.slice(0, -2).forEach((i, d) => {
        matrix = e.add([boundOf(type.shape[d]), matrix], i);
      });
      if (columns <= width) return e.add([each, matrix], [width, k], j);
      return e.add([each, matrix], [rows * width, e.div(j, width)], [width, k], e.mod(j, width));
    },

    *writes(type, at, data) {
      const { rows, columns, each } = matrices(type),
        size = rows * columns;
      let packed: TypedArray | undefined;
      for (let i = 0; i < data.length;) {
        const matrix = Math.floor((at + i) / size),
          from = at + i - matrix * size;
        if (from === 0 && data.length - i >= size) {
          const to = (packed ??= hostArray(type.dtype, each));
          pack(type, data, i, to);
          yield { at: matrix * each, data: to };
          i += size;
        } else {
          const k = Math.floor(from / columns),
            j = from % columns,
            count = Math.min(width - (j % width), columns - j, data.length - i),
            row = Math.floor(j / width) * rows + k;
          yield { at: matrix * each + row * width + (j % width), data: data.subarray(i, i + count) };
          i += count;
        }
      }
    },

    reading(type, at, count) {
      const { rows, columns, each } = matrices(type),
        size = rows * columns,
        first = Math.floor(at / size),
        all = Math.ceil((at + count) / size) - first,
        into = hostArray(type.dtype, all * each);
      return {
        at: first * each,
        into,
        value() {
          const whole = hostArray(type.dtype, all * size);
          for (let z = 0; z < all; z++) unpack(type, into, z * each, whole, z * size);
          return all * size === count ? whole : whole.slice(at - first * size, at - first * size + count);
        },
      };
    },

    place(graph, decided) {
      const fits = ({ types }: Graph, { role, value }: StateInput): boolean => {
        const type = types[value];
        if (!READ.includes(role) || type.dtype !== 'float32' || type.shape.length < 2) return false;
        const { rows, columns, each } = matrices(type);
        return each <= (1 + LOST) * rows * columns;
      };
      return placeStates(graph, fits, decided);
    },
  };
}

/**
 * Decides how the states of a program lie in device memory. A weight that the first program of a session only
 * multiplies with, as the right-hand matrix [K, N] of products or as the matrices of a bank, gets panels if it fits;
 * all other states stay in rows. What is decided holds for all later programs of the session: an op that reads such a
 * weight in another way reads a copy, and a program that changes it is refused.
 */
function placeStates(
  graph: Graph,
  fits: (graph: Graph, input: StateInput) => boolean,
  decided: Map<string, Layout>,
): Graph {
  const others = new Set(graph.nodes.flatMap((n) => n.inputs.filter((_, i) => !isRightOfProduct(n, i)))),
    kept = new Set([...graph.outputs, ...graph.updates].map((x) => x.value)),
    changed = new Set(graph.updates.map((u) => u.state)),
    inPanels = new Set<ValueId>();
  const choose = (i: StateInput): Layout =>
    !others.has(i.value) && !kept.has(i.value) && !changed.has(i.value) && fits(graph, i) ? 'panels' : 'rows';
  const inputs = graph.inputs.map((i) => {
    if (i.kind !== 'state') return i;
    const layout = decided.get(i.name) ?? choose(i);
    decided.set(i.name, layout);
    if (layout === 'panels') inPanels.add(i.value);
    if (layout === 'panels' && changed.has(i.value))
      throw new UserError(
        `state ${i.name} lies in panels of columns for products that read it; this program would change it`,
        'run the program that changes it first, or compile the model with an optimizer',
      );
    return layout === i.layout ? i : { ...i, layout };
  });
  return inPanels.size === 0 ? graph : withCopies({ ...graph, inputs }, inPanels);
}

/** Whether input i is the matrix (or the bank of them) that a product multiplies with from the right, as it is. */
const isRightOfProduct = ({ op, attrs }: Node, i: number): boolean =>
  i === 1 && (op === 'matmul' || op === 'groupedMatmul') && attrs['transB'] !== true;

/** Readers that are no such products read a copy, so that they need not know of panels. */
function withCopies(graph: Graph, inPanels: ReadonlySet<ValueId>): Graph {
  const types = [...graph.types],
    nodes: Node[] = [],
    copies = new Map<ValueId, ValueId>();
  const copyOf = (v: ValueId): ValueId => {
    const found = copies.get(v);
    if (found !== undefined) return found;
    const own = types.push(types[v]) - 1;
    nodes.push({ op: 'copy', inputs: [v], outputs: [own], attrs: {}, scope: '' });
    copies.set(v, own);
    return own;
  };
  for (const n of graph.nodes) {
    const inputs = n.inputs.map((v, i) => (inPanels.has(v) && !isRightOfProduct(n, i) ? copyOf(v) : v));
    nodes.push(inputs.some((v, i) => v !== n.inputs[i]) ? { ...n, inputs } : n);
  }
  return { ...graph, types, nodes };
}
