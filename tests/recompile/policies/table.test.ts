// The table of policies: its columns `auto` and `mayChangeResults` agree with what the rules may do and with the docs.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { recompile as recompileFlag } from '../../../src/cli/flags.ts';
import { policies, policyWith, POLICY_NAMES, ruleOfPolicy } from '../../../src/recompile/policies/select.ts';
import POLICIES from '../../../src/recompile/policies/table.ts';
import * as exported from '../../../src/recompile.ts';
import { parseConfig } from '../../../src/train/schema.ts';
import { blocks, inForce, open, steps, type LM } from '../lm.ts';

const rows = Object.entries(POLICIES);

test('auto has exactly the policies whose row says so, and none of them may change results', () => {
  const auto = policies('auto');
  assert.deepEqual(
    auto.map((rule) => rule.name),
    rows.filter(([, row]) => row.auto).map(([name]) => name),
  );
  assert.ok(auto.every((rule) => rule.only === 'N'));
});

test('dynamoe/recompile exports every policy of the table, and not the table', () => {
  for (const [name, row] of rows)
    if (name !== 'cacheAssignments') assert.equal((exported as Record<string, unknown>)[name], row.make, name);
  assert.equal(typeof exported.cacheAssignments, 'function'); // its row makes it without options
  assert.ok(!('POLICIES' in exported) && !('default' in exported));
});

test('a rule may change results exactly where the row of its policy says so, by name and in the lab', () => {
  for (const [name, row] of rows) {
    const only = row.mayChangeResults ? undefined : 'N';
    assert.equal(row.make().name, name);
    assert.equal(row.make().only, only, `${name}: the function that dynamoe/recompile exports agrees with the row`);
    assert.equal(policies(name)[0].only, only, name);
    if (row.lab) assert.equal(policyWith(name).only, only, name);
  }
});

test('if the row of a policy says that results stay, its rule cannot make a class R change', async () => {
  const make = () => ({
    name: 'wrong row',
    trigger: () => true,
    alter: (m: LM) => {
      for (const moe of blocks(m)) moe.topK = 1;
    },
    cooldown: 0,
  });
  for (const [mayChangeResults, topK] of [
    [false, 2],
    [true, 1],
  ] as const) {
    const { session, events } = await open();
    session.recompile<LM>(ruleOfPolicy({ ...POLICIES['sparsify'], make, mayChangeResults }));
    await steps(session, 40);
    assert.deepEqual(
      inForce(session).map((m) => m['topK']),
      [topK, topK],
    );
    assert.ok(events.every((e) => mayChangeResults || e.class !== 'R'));
    await session.close();
  }
});

/** Cells of the table in a Markdown file that has a row for each policy. */
function tableIn(file: string): string[][] {
  const text = readFileSync(join(import.meta.dirname, '../../..', file), 'utf8');
  const cells = text.split('\n').map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
  return cells.filter(([first, second]) => /^`\w+`$/.test(first ?? '') && second !== undefined);
}

test('help, configs and docs list the policies of the table', () => {
  assert.ok(recompileFlag().description.includes(POLICY_NAMES.join(',')));
  assert.throws(() => parseConfig({ recompile: 'magic' }), new RegExp(POLICY_NAMES.join(',')));
  const guide = tableIn('docs/guide/recompilation.md').filter((row) => row.length === 4);
  assert.deepEqual(
    guide.map(([name, , results, auto]) => [name.slice(1, -1), results !== 'unchanged', auto === 'yes']),
    rows.map(([name, { mayChangeResults, auto }]) => [name, mayChangeResults, auto]),
    'the table of docs/guide/recompilation.md',
  );
  const architecture = tableIn('docs/architecture/policies.md').filter((row) => row.length === 4);
  assert.deepEqual(
    architecture.map(([name, , , changes]) => [name.slice(1, -1), changes !== 'no']),
    rows.map(([name, { mayChangeResults }]) => [name, mayChangeResults]),
    'the table of docs/architecture/policies.md',
  );
});
