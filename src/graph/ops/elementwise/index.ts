// The elementwise ops, one row each. The function in a row is public (`ops` of the package) and has its op as a
// property, from which the table of ops (`src/graph/ops/index.ts`) and the conformance tests read it. Ops without a
// public function have their rows in that table.
export { abs } from './abs.ts';
export { add } from './add.ts';
export { cast } from './cast.ts';
export { cos } from './cos.ts';
export { div } from './div.ts';
export { equal } from './equal.ts';
export { erf } from './erf.ts';
export { exp } from './exp.ts';
export { floor } from './floor.ts';
export { gelu } from './gelu.ts';
export { isFinite } from './isFinite.ts';
export { less } from './less.ts';
export { log } from './log.ts';
export { logicalAnd } from './logicalAnd.ts';
export { logicalNot } from './logicalNot.ts';
export { logicalOr } from './logicalOr.ts';
export { maximum } from './maximum.ts';
export { minimum } from './minimum.ts';
export { mul } from './mul.ts';
export { neg } from './neg.ts';
export { pow } from './pow.ts';
export { relu } from './relu.ts';
export { round } from './round.ts';
export { rsqrt } from './rsqrt.ts';
export { sigmoid } from './sigmoid.ts';
export { silu } from './silu.ts';
export { sin } from './sin.ts';
export { softplus } from './softplus.ts';
export { sqrt } from './sqrt.ts';
export { stopGradient } from './stopGradient.ts';
export { sub } from './sub.ts';
export { tanh } from './tanh.ts';
export { where } from './where.ts';
