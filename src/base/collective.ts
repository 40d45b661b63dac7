/** What ranks do together: the names of collective steps (graph/ops/ranks says what each computes). */
export type Collective = 'gatherRanks' | 'exchangeRows' | 'joinRanks' | 'relay';
