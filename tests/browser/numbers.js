// What the page shows in numbers, and what it should show of a status.

import assert from "node:assert/strict";

import { until } from "./harness.js";

/** Everything that the page shows in numbers, at one moment, and of which status it is. */
const shown = (page) =>
  page.evaluate(() => {
    const text = (node, path) => node.querySelector(path)?.textContent ?? null;
    const all = (node, path, of) => [...node.querySelectorAll(path)].map(of);
    const number = (node, name) => text(node, `[data-number="${name}"]`);
    return {
      at: document.getElementById("main").dataset.at,
      waiting: text(document, '[data-figure="waiting"]'),
      flight: text(document, '[data-figure="flight"]'),
      bound: text(document, '[data-figure="bound"]'),
      pools: all(document, "[data-pool]", (pool) => ({
        pool: pool.dataset.pool,
        model: text(pool, "h3"),
        limits: all(pool, "[data-limit]", (limit) => ({
          name: limit.dataset.limit,
          available: number(limit, "available"),
          limit: number(limit, "limit"),
          held: number(limit, "held"),
          binding: text(limit, ".badge.bind") === "binding",
          learned: /learned/.test(text(limit, ".more")),
          now: limit.querySelector('[role="meter"]').getAttribute("aria-valuenow"),
          most: limit.querySelector('[role="meter"]').getAttribute("aria-valuemax"),
        })),
        queue: all(pool, "tbody tr", (row) => [row.cells[0].textContent, row.cells[1].textContent]),
        successes: number(pool, "successes"),
        failures: number(pool, "failures"),
        refusals: number(pool, "refusals"),
      })),
      tenants: all(document, "[data-tenant]:is(#today *)", (row) => [row.dataset.tenant, text(row.cells[1], ".one")]),
      refusals: all(document, "#refusals tbody tr", (row) => text(row.cells[1], ".one")),
      batches: all(document, "[data-batch]", (row) => [
        row.dataset.batch,
        row.querySelector('[role="progressbar"]').getAttribute("aria-valuenow"),
        row.querySelector('[role="progressbar"]').getAttribute("aria-valuemax"),
      ]),
    };
  });

/** The same, as a status has it. */
function expected(status) {
  const count = (value) => new Intl.NumberFormat("en").format(value);
  const sum = (of) => count(status.pools.reduce((all, pool) => all + of(pool), 0));
  const bounds = [...new Set(status.pools.map((pool) => pool.limited_by).filter(Boolean))];
  return {
    at: status.at,
    waiting: sum((pool) => pool.queued),
    flight: sum((pool) => pool.in_flight),
    bound: bounds.length > 1 ? `${bounds[0]} and ${bounds.length - 1} more` : (bounds[0] ?? "nothing"),
    pools: status.pools.map((pool) => ({
      pool: pool.pool,
      model: pool.model,
      limits: pool.constraints.map((it) => ({
        name: `${it.unit}/${it.window}`,
        available: count(it.available),
        limit: count(it.limit),
        held: count(it.held),
        binding: it.binding,
        learned: it.learned,
        now: String(Math.min(it.limit, Math.max(0, it.limit - it.available))),
        most: String(it.limit),
      })),
      queue: pool.classes.flatMap((of) => [
        [of.class, count(of.queued)],
        ...pool.tenants.filter((it) => it.class === of.class).map((it) => [it.tenant, count(it.queued)]),
      ]),
      successes: count(pool.upstream.successes),
      failures: count(pool.upstream.failures),
      refusals: count(pool.upstream.refusals),
    })),
    tenants: status.today.tenants.map((it) => [it.tenant, count(it.tokens)]),
    refusals: status.refusals.map((it) => it.reason.replaceAll("_", " ")),
    batches: status.batches.map((it) => [it.batch, String(it.completed + it.failed), String(it.total)]),
  };
}

/** What the page shows, once it is of a status that the stream has told; both say the same. */
export async function agreed(page, told) {
  const seen = await until(async () => {
    const seen = await shown(page);
    return told.has(seen.at) && seen;
  }, "a status that was told");
  assert.deepEqual(seen, expected(told.get(seen.at)));
  return seen;
}
