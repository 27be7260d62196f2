// Keeps the page up to date: the status comes as events, the hour is asked for when it has a new point.

import { span, time } from "./format.js";
import { Hour, Plots } from "./plots.js";
import { el, say, set, showBatches, showGlance, showPools, showRefusals, showToday } from "./view.js";

/** Without an event for so long the picture is old: events come every second. */
const SILENCE_MS = 5_000;
/** Time between two tries to listen again. */
const AGAIN_MS = 2_000;

const by = (id) => document.getElementById(id);
const hour = new Hour();
const plots = new Plots(by("plots"));
const which = by("which");

let status = null;
let heard = null;
let source = null;
let again = null;

// --- the status ----------------------------------------------------------------------------------

function show(next) {
  status = next;
  const waiting = status.pools.reduce((sum, pool) => sum + pool.queued, 0);
  document.title = waiting ? `${waiting} waiting · Tidegate` : "Tidegate";
  by("draining").hidden = !status.draining;
  showGlance(by("glance"), status);
  showPools(by("pool-list"), status);
  const hidden = status.pools_total - status.pools.length;
  say(by("pools-note"), hidden > 0 ? `the ${status.pools.length} busiest of ${status.pools_total}` : "");
  showToday(by("today-table"), by("today-note"), status.today);
  showRefusals(by("refusals-table"), by("refusals-note"), status);
  showBatches(by("batches-table"), by("batches-note"), status);
  say(by("version"), `Tidegate ${status.version}.`);
  // Which status all of this is of.
  set(by("main"), "data-at", status.at);
}

// --- the stream ----------------------------------------------------------------------------------

function listen() {
  clearTimeout(again);
  source?.close();
  source = new EventSource("/events");
  source.addEventListener("status", ({ data }) => {
    heard = Date.now();
    say(by("live-text"), "Live");
    if (by("live").dataset.state === "lost") announce("Live again.");
    state("live");
    show(JSON.parse(data));
  });
  // A browser gives up by itself after an answer that is no stream: this does not.
  source.addEventListener("error", lost);
}

function lost() {
  source?.close();
  if (by("live").dataset.state !== "lost") {
    const since = heard === null ? "Not live: the gateway does not answer." : `Not live since ${time(heard)}.`;
    announce(`${since} Trying again.`);
  }
  state("lost");
  tellLost();
  clearTimeout(again);
  again = setTimeout(listen, AGAIN_MS);
}

function tellLost() {
  const old = heard === null ? "" : ` What is shown is ${span(Math.round((Date.now() - heard) / 1_000))} old.`;
  const since = heard === null ? "Not live" : `Not live since ${time(heard)}`;
  say(by("live-text"), since);
  say(by("lost"), `${since}.${old} Trying again every ${AGAIN_MS / 1_000} seconds.`);
}

function state(name) {
  by("live").dataset.state = name;
  by("lost").hidden = name !== "lost";
  document.body.classList.toggle("stale", name === "lost");
}

/** Says something to whoever has the page read to them; only what changes rarely. */
function announce(text) {
  say(by("announce"), text);
}

setInterval(() => {
  const name = by("live").dataset.state;
  if (name === "lost") tellLost();
  else if (heard !== null && Date.now() - heard > SILENCE_MS) lost();
}, 1_000);

// --- the hour ------------------------------------------------------------------------------------

async function ask() {
  let pause = AGAIN_MS;
  try {
    const answer = await fetch(`/history${hour.query}`, { cache: "no-store" });
    // The session is over: what comes instead of the page asks for the token.
    if (answer.status === 401) location.reload();
    if (answer.ok) {
      const told = await answer.json();
      // A gateway that began anew knows nothing of what was before.
      hour.add(told);
      pause = told.every_seconds * 1_000;
      choose();
    }
  } catch {
    // The stream says that the gateway is away.
  }
  setTimeout(ask, pause);
}

/** Offers the pools, and shows the one that is chosen: at first the busiest. */
function choose() {
  const { times, pools } = hour.told;
  const wanted = [["", "all pools"], ...pools.map(({ pool, model }) => [pool, model])];
  const options = [...which.options];
  if (JSON.stringify(wanted) !== which.dataset.wanted) {
    which.dataset.wanted = JSON.stringify(wanted);
    const chosen = which.value;
    which.replaceChildren(...wanted.map(([value, name]) => el("option", { value }, name)));
    const busy = (it) => it.tokens_per_second.reduce((sum, value) => sum + (value ?? 0), 0);
    const busiest = [...pools].sort((a, b) => busy(b) - busy(a))[0]?.pool ?? "";
    const first = options.length <= 1;
    which.value = !first && wanted.some(([value]) => value === chosen) ? chosen : busiest;
  }
  plots.show(times, hour.of(which.value));
}

which.addEventListener("change", () => hour.told && choose());

listen();
ask();
