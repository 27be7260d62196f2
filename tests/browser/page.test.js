// The live page in a real browser, on a gateway under load.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { after, before, describe, test } from "node:test";

import { DESKTOP, HOSTILE, NARROW, PHONE, World, browser, open, pause, until } from "./harness.js";
import { agreed } from "./numbers.js";
import { shoot } from "./screenshots.js";

const require = createRequire(import.meta.url);
const PAGE = new URL("../../src/admin/page/", import.meta.url);
// Where the screenshots of a run go, to be looked at.
const SHOTS = process.env.SCREENSHOTS ?? new URL("../../.tools/browser/screenshots", import.meta.url).pathname;

let world;
let chrome;

before(async () => {
  // A minute passes in six seconds, so that limits come back while a test looks.
  world = await World.start({ scale: 10 });
  chrome = await browser();
  world.load();
  await world.batch("evaluation", 2_000);
  await until(async () => (await world.status()).pools.some((pool) => pool.queued > 0), "a queue");
  // Somebody is turned away.
  assert.equal(await world.chat("search", "glm-4.7", { output: 10_000_000 }), 413);
});

after(async () => {
  await chrome?.close();
  await world?.stop();
});

/** Opens the page, and has the test fail for whatever went wrong on it. */
async function on(options, body) {
  const opened = await open(chrome, world, options);
  try {
    await body(opened);
    const broken = await opened.page.evaluate(() => window.broken);
    assert.deepEqual([...opened.wrong, ...broken], [], "nothing goes wrong");
  } finally {
    await opened.context.close();
  }
}

describe("the plot library", () => {
  test("is that of the package, byte by byte", async () => {
    const root = join(dirname(require.resolve("uplot/package.json")));
    for (const [ours, theirs] of [
      ["uPlot.iife.min.js", "dist/uPlot.iife.min.js"],
      ["uPlot.min.css", "dist/uPlot.min.css"],
      ["LICENSE", "LICENSE"],
    ]) {
      const [mine, original] = [await readFile(new URL(`vendor/${ours}`, PAGE)), await readFile(join(root, theirs))];
      const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");
      assert.equal(digest(mine), digest(original), ours);
    }
  });

  test("is of the version and integrity that its note says", async () => {
    const lock = JSON.parse(await readFile(new URL("package-lock.json", import.meta.url)));
    const { version, integrity, license } = lock.packages["node_modules/uplot"];
    const note = await readFile(new URL("vendor/README.md", PAGE), "utf8");
    for (const fact of [version, integrity, license]) assert.ok(note.includes(fact), fact);
  });
});

describe("under load", () => {
  test("the numbers are those of the status", () =>
    on({}, async ({ page, told }) => {
      for (const pool of await page.locator("details:not([open]) > summary").all()) await pool.click();
      let queued = 0;
      for (let look = 0; look < 8; look += 1) {
        const seen = await agreed(page, told);
        queued += Number(seen.waiting);
        await pause(400);
      }
      assert.ok(queued > 0, "somebody waited");
      assert.ok(told.size >= 3, "statuses came");
      const keys = (value) => Object.keys(value).sort();
      const status = await world.status();
      const [event] = told.values();
      assert.deepEqual(keys(event), keys(status), "an event is a status");
      assert.deepEqual(keys(event.pools[0]), keys(status.pools[0]));
      assert.ok(status.pools[0].constraints.some((it) => it.learned), "a limit was learned");
      assert.ok(status.refusals.length > 0, "somebody was refused");
    }));

  test("the gauges move, and what binds is marked in words", () =>
    on({}, async ({ page }) => {
      const meter = page.locator('[data-limit="tokens/minute"] [role="meter"]').first();
      const widths = new Set();
      const values = new Set();
      const texts = new Set();
      await until(async () => {
        values.add(await meter.getAttribute("aria-valuenow"));
        texts.add(await meter.getAttribute("aria-valuetext"));
        widths.add(await meter.locator(".used").evaluate((bar) => bar.style.width));
        return values.size >= 4 && widths.size >= 4;
      }, "a gauge that moves");
      for (const text of texts) assert.match(text, /^<?[\d,]+ % used(, binding)?: -?[\d,]+ of [\d,]+ left, [\d,]+ held, (resets|unused)/);
      await page.locator("li.binding .badge.bind", { hasText: "binding" }).first().waitFor();
      const spoken = page.locator('li.binding [role="meter"]').first();
      assert.match(await spoken.getAttribute("aria-valuetext"), /, binding:/);
    }));

  test("the last hour is drawn, and told in numbers", () =>
    on({}, async ({ page }) => {
      await page.locator("#plots canvas").first().waitFor();
      assert.equal(await page.locator("#plots canvas").count(), 4);
      const drawn = () =>
        page.locator("#plots canvas").evaluateAll((all) =>
          all.map((canvas) => {
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return data.some((value, index) => index % 4 === 3 && value > 0);
          }),
        );
      assert.deepEqual(await drawn(), [true, true, true, true]);
      const history = await (await fetch(`${world.admin}/history`)).json();
      const limits = history.pools[0].constraints.map((it) => `${it.unit}/${it.window}`);
      const names = await page.locator('[data-plot="used"] tbody th').allTextContents();
      assert.deepEqual(names, limits);
      const label = await page.locator('[data-plot="requests"] [role="img"]').getAttribute("aria-label");
      assert.match(label, /^Over the last hour: requests now [\d.,]+, mean [\d.,]+, at most [\d.,]+/);
      // Another point comes by itself.
      const points = async () => Number((await page.locator('[data-plot="requests"] [role="img"]').getAttribute("aria-label")).match(/\((\d+) points/)[1]);
      const first = await points();
      await until(async () => (await points()) > first, "another point");
      // All pools together have no limits.
      await page.locator("#which").selectOption("");
      await page.locator('[data-plot="used"] .empty', { hasText: "Choose a pool" }).waitFor();
    }));

  test("everything is reached and worked with the keyboard alone", () =>
    on({}, async ({ page }) => {
      const reached = [];
      for (let stop = 0; stop < 60; stop += 1) {
        await page.keyboard.press("Tab");
        const seen = await page.evaluate(() => {
          const at = document.activeElement;
          if (!at || at === document.body) return null;
          const style = getComputedStyle(at);
          const box = at.getBoundingClientRect();
          return {
            name: `${at.localName}${at.id ? `#${at.id}` : ""} ${(at.getAttribute("href") ?? at.getAttribute("aria-labelledby") ?? at.querySelector("h3")?.id ?? "").trim()}`,
            visible: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.width > 0,
          };
        });
        if (!seen) break;
        reached.push(seen);
      }
      const names = reached.map(({ name }) => name);
      assert.deepEqual(names.slice(0, 6), [
        "a #pools",
        "a #pools",
        "a #hour",
        "a #today",
        "a #refusals",
        "a #batches",
      ]);
      for (const wanted of ["summary pool-", "select#which", "div today-title", "div refusals-title", "div batches-title", "a /status"]) {
        assert.ok(names.some((name) => name.startsWith(wanted)), `${wanted}: ${names.join(", ")}`);
      }
      for (const { name, visible } of reached) assert.ok(visible, `the focus shows on ${name}`);
      // The first stop leads past the head of the page; a pool opens and closes.
      await page.reload();
      await page.locator('#live[data-state="live"]').waitFor();
      await page.locator("details").first().waitFor();
      await page.keyboard.press("Tab");
      await page.keyboard.press("Enter");
      assert.equal(await page.evaluate(() => document.activeElement.id), "pools");
      await page.keyboard.press("Tab");
      const pool = page.locator("details").first();
      const before = await pool.evaluate((it) => it.open);
      await page.keyboard.press("Enter");
      assert.equal(await pool.evaluate((it) => it.open), !before);
      // What somebody did stays, whatever comes.
      await pause(2_500);
      assert.equal(await pool.evaluate((it) => it.open), !before);
      assert.equal(await page.evaluate(() => document.activeElement.localName), "summary", "the focus stays too");
    }));

  for (const theme of ["light", "dark"]) {
    for (const [where, viewport] of [["desktop", DESKTOP], ["phone", NARROW]]) {
      test(`nobody is kept out: ${theme}, ${where}`, () =>
        on({ theme, viewport, motion: "reduce" }, async ({ page }) => {
          await page.locator("#plots canvas").first().waitFor();
          for (const pool of await page.locator("details:not([open]) > summary").all()) await pool.click();
          const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          assert.ok(wide <= 0, `${wide} px too wide`);
          const source = await readFile(require.resolve("axe-core/axe.min.js"), "utf8");
          await page.evaluate(source);
          const { violations, passes } = await page.evaluate(() => window.axe.run(document, { preload: false }));
          assert.ok(passes.some(({ id }) => id === "color-contrast"), "contrast was looked at");
          const told = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((it) => `${it.html} ${it.failureSummary}`).slice(0, 3).join("\n")}`);
          assert.deepEqual(told, []);
        }));
    }
  }

  test("landmarks and headings say what is where", () =>
    on({}, async ({ page }) => {
      const snapshot = await page.locator("body").ariaSnapshot();
      for (const part of ["- banner:", "- main:", "- contentinfo:", '- navigation "Sections":', '- heading "Tidegate" [level=1]']) {
        assert.ok(snapshot.includes(part), `${part} in ${snapshot}`);
      }
      const headings = await page.locator("h2").allTextContents();
      assert.deepEqual(headings, ["At a glance", "Pools", "Last hour", "Tenants by tokens today", "Last refusals", "Batches"]);
      for (const heading of headings) assert.ok(snapshot.includes(`- region "${heading}"`), heading);
      assert.ok(snapshot.includes('- meter "tokens/minute"') && snapshot.includes("- progressbar"), snapshot);
    }));

  test("nothing moves for those who want it so", async () => {
    const slow = (page) => page.locator(".meter .used").first().evaluate((bar) => getComputedStyle(bar).transitionDuration);
    await on({ motion: "reduce" }, async ({ page }) => assert.equal(await slow(page), "0s"));
    await on({}, async ({ page }) => assert.notEqual(await slow(page), "0s"));
  });

  test("a name stays a name: a model", () =>
    on({}, async ({ page }) => {
      // Both a pool and a refusal of that name.
      assert.equal(await world.chat("search", HOSTILE), 200);
      assert.equal(await world.chat("search", HOSTILE, { output: 10_000_000 }), 413);
      await page.locator("h3", { hasText: HOSTILE }).waitFor();
      await page.locator("#refusals td", { hasText: HOSTILE }).first().waitFor();
      await page.locator("#which option", { hasText: HOSTILE }).waitFor({ state: "attached" });
      await harmless(page);
    }));

  test("a name stays a name: whatever a status could say", () =>
    on({}, async ({ page }) => {
      const hostile = (value) => {
        if (typeof value === "string") return /^\d{4}-/.test(value) ? value : HOSTILE;
        if (Array.isArray(value)) return value.map(hostile);
        if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, it]) => [key, hostile(it)]));
        return value;
      };
      const status = JSON.stringify(hostile(await world.status()));
      await page.route("**/events", (route) =>
        route.fulfill({ contentType: "text/event-stream", body: `event: status\ndata: ${status}\n\n` }),
      );
      await page.reload();
      await page.locator("h3", { hasText: HOSTILE }).first().waitFor();
      await page.locator("#today th", { hasText: HOSTILE }).first().waitFor();
      await page.locator("#batches th", { hasText: HOSTILE }).first().waitFor();
      await harmless(page);
    }));

  /** The name has become neither an element nor a script that ran. */
  async function harmless(page) {
    await pause(300);
    assert.equal(await page.evaluate(() => window.harmed), undefined);
    assert.deepEqual(await page.locator("img").evaluateAll((all) => all.map((it) => it.getAttribute("src"))), ["/page/icon.svg"]);
    const scripts = await page.locator("script").evaluateAll((all) => all.map((it) => it.getAttribute("src")));
    assert.deepEqual(scripts, ["/page/vendor/uPlot.js", "/page/main.js"]);
  }

  test("the policy stops what the page would never do", () =>
    on({}, async ({ page, wrong }) => {
      const stopped = await page.evaluate(async () => {
        const tried = {};
        const attempt = async (name, body) => {
          try {
            await body();
            tried[name] = "done";
          } catch {
            tried[name] = "stopped";
          }
        };
        await attempt("markup", () => (document.body.lastElementChild.innerHTML = "<b>x</b>"));
        await attempt("elsewhere", () => fetch("http://127.0.0.1:9/"));
        const script = document.createElement("script");
        await attempt("inline", () => (script.textContent = "window.harmed = 3"));
        document.body.append(script);
        return tried;
      });
      assert.deepEqual(stopped, { markup: "stopped", elsewhere: "stopped", inline: "stopped" });
      assert.equal(await page.evaluate(() => window.harmed), undefined);
      // Those were meant.
      wrong.length = 0;
      await page.evaluate(() => (window.broken.length = 0));
    }));

  test("screenshots of both sizes and themes are taken", async () => {
    await shoot(chrome, world, SHOTS);
    console.log(`screenshots: ${SHOTS}`);
  });
});

describe("when the gateway goes away", () => {
  test("the page says since when, and goes on when it is back", async () => {
    const { page, context } = await open(chrome, world, { viewport: PHONE });
    try {
      assert.ok(await page.locator("#lost").isHidden());
      await world.gateway.stop("SIGKILL");
      const lost = page.locator("#lost");
      await lost.filter({ hasText: /^Not live since \d\d:\d\d:\d\d\. What is shown is .* old\. Trying again/ }).waitFor();
      assert.match(await page.locator("#live").textContent(), /^Not live since \d\d:\d\d:\d\d$/);
      const announced = page.locator('#announce[role="status"]');
      assert.match(await announced.textContent(), /^Not live since \d\d:\d\d:\d\d\. Trying again\.$/);
      assert.ok((await page.locator("[data-pool]").count()) > 0, "what was known stays to be read");
      await world.open();
      await page.locator('#live[data-state="live"]', { hasText: "Live" }).waitFor();
      assert.ok(await lost.isHidden());
      assert.equal(await announced.textContent(), "Live again.");
      await page.locator("[data-pool]").first().waitFor();
    } finally {
      await context.close();
    }
  });

  test("a gateway that shuts down says so first", async () => {
    const { page, context } = await open(chrome, world);
    try {
      // Somebody who does not come to an end holds it up until the drain's deadline.
      await world.quiet();
      const call = world.chat("search", "llama-3.3-70b", { headers: { "x-sim-fault": "hang" } }).catch(() => null);
      const pool = async () => (await world.status()).pools.find((it) => it.model === "llama-3.3-70b");
      await until(async () => (await pool())?.in_flight === 1, "somebody at the upstream");
      world.gateway.process.kill("SIGTERM");
      await page.locator("#draining", { hasText: "shutting down" }).waitFor();
      await page.locator('#live[data-state="lost"]').waitFor();
      await Promise.all([call, world.gateway.exited]);
      await world.open();
      await page.locator('#live[data-state="live"]').waitFor();
      assert.ok(await page.locator("#draining").isHidden());
    } finally {
      await context.close();
    }
  });
});
