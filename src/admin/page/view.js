// The status as a document. Nodes are made once and then changed in place, so that the reader's place,
// focus and selection stay. Whatever a name says, it becomes text: nothing here reads markup.

import { ago, bytes, compact, count, limit, percent, span, time, when, words } from "./format.js";

/** An element; `attributes` by name, children as nodes or text. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) set(node, name, value);
  node.append(...children);
  return node;
}

/** Sets an attribute if it is not so already; `null` takes it away. */
export function set(node, name, value) {
  if (value === null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Sets a node's text if it is not that already. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Makes the children of `parent` those of `items`, one each, in their order: `make` for a new one,
 * then `update` for every one. */
function each(parent, items, key, make, update) {
  const known = (parent.known ??= new Map());
  const wanted = new Set();
  let before = parent.firstElementChild;
  for (const [index, item] of items.entries()) {
    const name = key(item, index);
    wanted.add(name);
    if (!known.has(name)) known.set(name, make(item));
    const part = known.get(name);
    if (part.node !== before) parent.insertBefore(part.node, before);
    else before = before.nextElementSibling;
    update(part, item, index);
  }
  for (const [name, part] of known) {
    if (wanted.has(name)) continue;
    part.node.remove();
    known.delete(name);
  }
}

// --- at a glance ---------------------------------------------------------------------------------

/** The few numbers that say whether all is well. */
export function showGlance(list, status) {
  const pools = status.pools;
  const sum = (of) => pools.reduce((all, pool) => all + of(pool), 0);
  const waiting = sum((pool) => pool.queued);
  const oldest = Math.max(0, ...pools.map((pool) => pool.oldest_wait_seconds));
  const bounds = [...new Set(pools.map((pool) => pool.limited_by).filter(Boolean))];
  const end = firstEnd(pools);
  const bound = bounds.length > 1 ? `${bounds[0]} and ${bounds.length - 1} more` : bounds[0];
  const figures = [
    ["waiting", "Waiting", count(waiting), waiting > 0 ? `oldest ${span(oldest)}` : ""],
    ["bound", "Limited by", bound ?? "nothing", bounds.length ? "binds now" : ""],
    ["flight", "At the upstream", count(sum((pool) => pool.in_flight)), ""],
    ["end", "Longer limits used up", end ? when(end.exhausted_at, status.at) : "not in sight", end ? limit(end) : ""],
    ["connections", "Connections", count(status.connections), `${bytes(status.body_bytes)} of bodies`],
    ["uptime", "Up for", span(Math.floor(status.uptime_seconds)), ""],
  ];
  each(
    list,
    figures,
    ([key]) => key,
    ([key, name]) => {
      const [value, more] = [el("dd", { "data-figure": key }), el("dd", { class: "more" })];
      return { node: el("div", {}, el("dt", {}, name), value, more), value, more };
    },
    (part, [, , value, more]) => {
      say(part.value, value);
      say(part.more, more);
    },
  );
}

/** The limit that will be used up first, of those that do not come back within one shortest window:
 * that the minute is used up is what a queue is for. */
function firstEnd(pools) {
  const longer = pools.flatMap(({ constraints }) => {
    const shortest = Math.min(...constraints.map((it) => it.window_seconds));
    return constraints.filter((it) => it.window_seconds > shortest && it.exhausted_at);
  });
  return longer.sort((a, b) => Date.parse(a.exhausted_at) - Date.parse(b.exhausted_at))[0];
}

// --- pools ---------------------------------------------------------------------------------------

/** Pools that are open without being asked to: all of a few, else those with something to do. */
const FEW = 3;

export function showPools(list, status) {
  if (status.pools.length === 0) {
    list.known?.clear();
    const none = "No pool yet: a pool begins with the first request to a model.";
    if (list.textContent !== none) list.replaceChildren(el("p", { class: "card empty" }, none));
    return;
  }
  list.querySelector(":scope > .empty")?.remove();
  each(list, status.pools, (pool) => pool.pool, makePool, (part, pool) => {
    const busy = pool.queued > 0 || pool.in_flight > 0;
    if (!part.asked) {
      const open = status.pools.length <= FEW || busy || part.node.open;
      if (part.node.open !== open) part.node.open = open;
    }
    updatePool(part, pool, status);
  });
}

function makePool(pool) {
  const id = `pool-${pool.pool}`;
  const part = {
    name: el("h3", { id }, pool.model),
    state: el("span", { class: "state" }),
    bound: el("span", { class: "badge bind" }),
    trouble: el("span", { class: "badge bad" }),
    gauges: el("ul", { class: "gauges", "aria-label": `Limits of ${pool.model}` }),
    queue: queueTable(id),
    health: el("dl", { class: "facts" }),
  };
  const title = el("summary", {}, part.name, part.bound, part.trouble, part.state);
  const upstream = el("div", {}, el("h4", {}, "Upstream"), part.health);
  const below = el("div", { class: "below" }, part.queue.node, upstream);
  part.node = el("details", { class: "card pool", "data-pool": pool.pool }, title, part.gauges, below);
  // Once somebody has opened or closed it, it stays as it is.
  title.addEventListener("click", () => (part.asked = true));
  return part;
}

function updatePool(part, pool, status) {
  const waiting = pool.queued ? `${count(pool.queued)} waiting` : "nobody waits";
  say(part.state, `${waiting} · ${count(pool.in_flight)} at the upstream · profile ${pool.profile}`);
  say(part.bound, pool.limited_by ? `limited by ${pool.limited_by}` : "");
  say(part.trouble, pool.stalled ? "dispatch has stalled" : "");
  each(part.gauges, pool.constraints, limit, makeGauge, (gauge, it) => updateGauge(gauge, it, status));
  updateQueue(part.queue, pool);
  updateHealth(part.health, pool.upstream, status.at);
}

/** A limit's state: how much is used and held of it, and what is known about it. */
function makeGauge(constraint) {
  const name = limit(constraint);
  const part = {
    name: el("span", { class: "name" }, name),
    bind: el("span", { class: "badge bind" }),
    part: el("span", { class: "part" }),
    usedBar: el("span", { class: "used" }),
    heldBar: el("span", { class: "held" }),
    numbers: el("p", { class: "numbers" }),
    facts: el("p", { class: "more" }),
  };
  part.meter = el("div", { class: "meter", role: "meter", "aria-label": name }, part.usedBar, part.heldBar);
  const head = el("p", { class: "head" }, part.name, part.bind, part.part);
  part.node = el("li", { "data-limit": name }, head, part.meter, part.numbers, part.facts);
  for (const [key, text] of [["available", " left of "], ["limit", " · "], ["held", " held"]]) {
    part[key] = el("span", { "data-number": key });
    part.numbers.append(part[key], text);
  }
  return part;
}

/** The part of a limit from which on there is little left. That there is nothing left is no worse: it is
 * what the queue is for. */
const LITTLE = 0.8;

function updateGauge(part, it, status) {
  const used = Math.max(0, it.limit - it.available);
  const whole = used / it.limit;
  const held = Math.min(it.held, used);
  say(part.part, percent(whole));
  say(part.bind, it.binding ? "binding" : "");
  part.node.classList.toggle("binding", it.binding);
  set(part.node, "data-state", whole >= LITTLE ? "little" : "fine");
  // What is drawn never leaves the track, even in debt.
  const spent = Math.min(1, (used - held) / it.limit);
  part.usedBar.style.width = `${spent * 100}%`;
  part.heldBar.style.width = `${Math.min(1 - spent, held / it.limit) * 100}%`;
  say(part.available, count(it.available));
  say(part.limit, count(it.limit));
  say(part.held, count(it.held));
  const resets = used === 0 ? "unused" : `resets in ${span(Math.ceil(it.resets_in_seconds))}`;
  const origin = it.learned ? `learned, ${compact(it.configured_limit)} configured` : "configured";
  const doubted = it.mode !== it.configured_mode && it.configured_mode !== "auto";
  const mode = doubted ? `${it.mode}, ${it.configured_mode} is doubted` : it.mode;
  const facts = [resets, origin, mode];
  if (it.foreign > 0) facts.push(`others use ${compact(it.foreign)}`);
  if (it.drift !== 0) facts.push(`drift ${count(it.drift)}`);
  // What is used up already says so above.
  if (it.exhausted_at && it.available > 0) facts.push(`used up at ${when(it.exhausted_at, status.at)}`);
  say(part.facts, facts.join(" · "));
  const binding = it.binding ? ", binding" : "";
  const spoken = `${percent(whole)} used${binding}: ${count(it.available)} of ${count(it.limit)} left, ${count(it.held)} held, ${resets}`;
  set(part.meter, "aria-valuemin", 0);
  set(part.meter, "aria-valuemax", it.limit);
  set(part.meter, "aria-valuenow", Math.min(used, it.limit));
  set(part.meter, "aria-valuetext", spoken);
}

function queueTable(id) {
  const body = el("tbody");
  const columns = ["Class, tenant", "Waiting", "Oldest", "A new one starts"];
  const head = columns.map((text, index) => el("th", { scope: "col", class: index ? "n" : "" }, text));
  const table = el("table", { "aria-describedby": id }, el("thead", {}, el("tr", {}, ...head)), body);
  const node = el("div", {}, el("h4", {}, "Queue"), table);
  return { node, body };
}

function updateQueue(part, pool) {
  const rows = pool.classes.flatMap((of) => [
    of,
    ...pool.tenants.filter((tenant) => tenant.class === of.class),
  ]);
  const key = ({ class: name, tenant }) => JSON.stringify([name, tenant ?? null]);
  const make = ({ class: name, tenant }) => {
    const who = tenant ?? name ?? "";
    const cells = [el("th", { scope: "row" }, who), ...cellsOf(3)];
    const kind = tenant === undefined ? "class" : "tenant";
    return { node: el("tr", { class: kind, [`data-${kind}`]: who }, ...cells), cells };
  };
  each(part.body, rows, key, make, ({ cells }, row) => {
    const [, waiting, oldest, start] = cells;
    say(waiting, count(row.queued));
    say(oldest, row.queued ? span(row.oldest_wait_seconds) : "–");
    say(start, soon(row.forecast_seconds));
  });
}

/** When a request that came now would go; nothing is said of single tenants. */
function soon(forecast) {
  if (forecast === undefined) return "";
  return forecast < 0.0005 ? "at once" : `in ${span(forecast)}`;
}

const cellsOf = (number) => Array.from({ length: number }, () => el("td", { class: "n" }));

function updateHealth(list, health, now) {
  const minutes = `${health.window_seconds / 60} min`;
  const last = (at, what) => (at ? [what, ago(at, now)].filter(Boolean).join(", ") : "never");
  const quota = health.last_refusal_quota ? ` of ${health.last_refusal_quota}` : "";
  const blame = health.last_refusal_blame ? ` (${health.last_refusal_blame})` : "";
  const refusal = health.last_refusal && `${words(health.last_refusal)}${quota}${blame}`;
  const facts = [
    ["successes", `Answers, ${minutes}`, count(health.successes), last(health.last_success_at, "")],
    ["failures", `Failures, ${minutes}`, count(health.failures), last(health.last_failure_at, health.last_failure)],
    ["refusals", `Refusals, ${minutes}`, count(health.refusals), last(health.last_refusal_at, refusal)],
  ];
  each(
    list,
    facts,
    ([key]) => key,
    ([key, name]) => {
      const [value, more] = [el("dd", { "data-number": key }), el("dd", { class: "more" })];
      return { node: el("div", {}, el("dt", {}, name), value, more), value, more };
    },
    (part, [key, , value, more]) => {
      say(part.value, value);
      say(part.more, more === "never" ? "never" : `last: ${more}`);
      part.node.classList.toggle("bad", key !== "successes" && value !== "0");
    },
  );
}

// --- tables --------------------------------------------------------------------------------------

/** A table with a row for each item, in a box that scrolls sideways where there is no room. */
function rowsOf(box, { label, columns, empty }, items, key, cells) {
  const part = (box.made ??= (() => {
    const body = el("tbody");
    const head = columns.map(([text, kind = ""]) => el("th", { scope: "col", class: kind }, text));
    const table = el("table", { "aria-labelledby": label }, el("thead", {}, el("tr", {}, ...head)), body);
    const scroll = el("div", { class: "scroll", role: "group", tabindex: 0, "aria-labelledby": label }, table);
    const none = el("p", { class: "empty" }, empty);
    box.append(scroll, none);
    return { body, scroll, none };
  })());
  part.none.hidden = items.length > 0;
  part.scroll.hidden = items.length === 0;
  const make = () => {
    const all = columns.map(([, kind = ""], index) =>
      index ? el("td", { class: kind }) : el("th", { scope: "row", class: kind }),
    );
    return { node: el("tr", {}, ...all), all };
  };
  each(part.body, items, key, make, ({ node, all }, item, index) => cells(all, item, index, node));
}

/** Text, and smaller text below it. */
function two(cell, text, more) {
  const [first, second] = (cell.two ??= [el("span", { class: "one" }), el("span", { class: "more" })]);
  if (!first.parentNode) cell.append(first, second);
  say(first, text);
  say(second, more);
}

export function showToday(box, note, { since, tenants }) {
  const all = tenants.reduce((sum, it) => sum + it.tokens, 0);
  say(note, `${count(all)} tokens since midnight UTC (${when(since, since).slice(0, 5)})`);
  const columns = [["Tenant", "name"], ["Tokens", "n"], ["Share", "share"], ["Requests", "n"]];
  const table = { label: "today-title", columns, empty: "Nobody has used anything today." };
  rowsOf(box, table, tenants, (it) => it.tenant, ([who, tokens, share, requests], it, _, node) => {
    set(node, "data-tenant", it.tenant);
    say(who, it.tenant);
    two(tokens, count(it.tokens), `${compact(it.prompt_tokens)} in, ${compact(it.completion_tokens)} out`);
    const part = all ? it.tokens / all : 0;
    const [bar, text] = (share.parts ??= [el("span", { class: "fill" }), el("span", {})]);
    if (!text.parentNode) share.append(el("span", { class: "track", "aria-hidden": "true" }, bar), text);
    bar.style.width = `${part * 100}%`;
    say(text, percent(part));
    two(requests, count(it.requests), it.refused ? `${count(it.refused)} refused` : "");
  });
}

export function showRefusals(box, note, { refusals, at: now }) {
  say(note, refusals.length ? `the last ${refusals.length}` : "");
  const columns = [["When", "when"], ["Why"], ["Who", "who"]];
  const table = { label: "refusals-title", columns, empty: "No request was turned away." };
  rowsOf(box, table, refusals, (_, index) => index, ([at, why, who], it) => {
    two(at, time(Date.parse(it.at)), ago(it.at, now));
    const back = it.retry_after_seconds === null ? null : `retry after ${span(it.retry_after_seconds)}`;
    const by = [it.source, it.status].filter(Boolean).join(" ");
    two(why, words(it.reason), [it.limited_by, by, back].filter(Boolean).join(" · "));
    two(who, it.tenant ?? "nobody known", it.model ?? "no model");
  });
}

export function showBatches(box, note, { batches }) {
  say(note, batches.length ? `${batches.length} not ended` : "");
  const columns = [["Batch", "name"], ["Progress", "share wide"]];
  const table = { label: "batches-title", columns, empty: "No batch runs." };
  rowsOf(box, table, batches, (it) => it.batch, ([name, progress], it, _, node) => {
    set(node, "data-batch", it.batch);
    const expires = `expires in ${span(it.expires_in_seconds)}`;
    two(name, it.batch, [it.tenant, words(it.status), expires].join(" · "));
    const over = it.completed + it.failed;
    const part = it.total ? over / it.total : 0;
    const [bar, text, more] = (progress.parts ??= [
      el("span", { class: "track", role: "progressbar", "aria-label": `Progress of ${it.batch}` }, el("span", { class: "fill" })),
      el("span", {}),
      el("span", { class: "more" }),
    ]);
    if (!text.parentNode) progress.append(bar, text, more);
    bar.firstChild.style.width = `${part * 100}%`;
    set(bar, "aria-valuemin", 0);
    set(bar, "aria-valuemax", it.total);
    set(bar, "aria-valuenow", over);
    set(bar, "aria-valuetext", `${count(over)} of ${count(it.total)}, ${percent(part)}`);
    say(text, percent(part));
    say(more, progressOf(it, over));
  });
}

/** How far a batch is, and what holds it up. */
function progressOf(it, over) {
  const facts = [
    `${count(over)} of ${count(it.total)} done`,
    `${count(it.failed)} failed`,
    `${count(it.tokens_used)} tokens`,
  ];
  if (it.waiting !== undefined) facts.push(`${count(it.waiting)} in line`);
  if (it.limited_by) facts.push(`limited by ${it.limited_by}`);
  if (it.last_trouble) facts.push(it.last_trouble);
  return facts.join(" · ");
}
