// The table of built-in policies: what each may do, and whether `auto` has it. A new policy is a file in this folder,
// and here an import, an export and a row. `dynamoe/recompile` exports everything that this file exports by name. The
// table is the default export, so it stays internal.
import { adaptCapacity, isBoundByLoad, type AdaptCapacityOptions } from './adaptCapacity.ts';
import { cacheAssignments, type CacheAssignmentsOptions } from './cacheAssignments.ts';
import { chooseDispatch, type ChooseDispatchOptions } from './chooseDispatch.ts';
import { expertLifecycle, type ExpertLifecycleOptions } from './expertLifecycle.ts';
import { fitMemory, type FitMemoryOptions } from './fitMemory.ts';
import { specialise, type SpecialiseOptions } from './specialise.ts';
import { sparsify, type SparsifyOptions } from './sparsify.ts';
import { needs, noLayer, type Policy } from './policy.ts';

export {
  adaptCapacity,
  type AdaptCapacityOptions,
  cacheAssignments,
  type CacheAssignmentsOptions,
  chooseDispatch,
  type ChooseDispatchOptions,
  expertLifecycle,
  type ExpertLifecycleOptions,
  fitMemory,
  type FitMemoryOptions,
  specialise,
  type SpecialiseOptions,
  sparsify,
  type SparsifyOptions,
};

/** The built-in policies by name. */
const POLICIES: Readonly<Record<string, Policy>> = {
  adaptCapacity: {
    make: adaptCapacity,
    options: ['quantile', 'margin', 'price', 'horizon', 'cooldown'],
    mayChangeResults: true,
    auto: true,
    lab: true,
    actsWithoutEmptyRows: false,
    idle: needs(
      isBoundByLoad,
      'no layer has a capacity that depends on loads; set capacity, and dispatch where needed',
    ),
  },
  chooseDispatch: {
    make: chooseDispatch,
    options: ['padding', 'cooldown'],
    mayChangeResults: false,
    auto: true,
    lab: true,
    actsWithoutEmptyRows: false,
    idle: noLayer,
  },
  fitMemory: {
    make: fitMemory,
    options: ['budget', 'margin', 'horizon', 'cooldown'],
    mayChangeResults: true,
    auto: true,
    lab: true,
    actsWithoutEmptyRows: true,
    idle: () => null,
  },
  specialise: {
    make: specialise,
    options: ['hysteresis', 'cooldown'],
    mayChangeResults: false,
    auto: true,
    lab: true,
    actsWithoutEmptyRows: true,
    idle: noLayer,
  },
  sparsify: {
    make: sparsify,
    options: ['below', 'above', 'cooldown'],
    mayChangeResults: true,
    auto: true,
    lab: true,
    actsWithoutEmptyRows: false,
    idle: needs(({ topK }) => topK > 1, 'every token goes to one expert already'),
  },
  expertLifecycle: {
    make: expertLifecycle,
    options: ['prune', 'merge', 'split', 'freeze', 'keep', 'cooldown'],
    mayChangeResults: true,
    auto: true,
    lab: false,
    actsWithoutEmptyRows: false,
    idle: needs(({ router }) => router.expertAxes !== undefined, 'no router supports adding and removing experts'),
  },
  cacheAssignments: {
    make: () => cacheAssignments(),
    options: [],
    mayChangeResults: true,
    auto: false,
    lab: false,
    actsWithoutEmptyRows: false,
    idle: needs(({ router }) => router.remembers === true, 'choices of these routers cannot be remembered'),
  },
};
export default POLICIES;
