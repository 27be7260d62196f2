// The live page of `tidegate demo`, as a stranger meets it, with more callers than its limits have room for.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Demo, PHONE, browser, open, pause, until } from "./harness.js";
import { agreed } from "./numbers.js";

let demo;
let chrome;

before(async () => {
  // Twenty requests a second are let go; after the first 120 the others wait.
  demo = await Demo.start({ scale: 10 });
  chrome = await browser();
  demo.load(40);
  await until(async () => (await demo.status()).pools.some((pool) => pool.queued > 0), "a queue");
});

after(async () => {
  await chrome?.close();
  await demo?.stop();
});

for (const [where, options] of [["desktop", {}], ["phone, dark", { viewport: PHONE, theme: "dark" }]]) {
  test(`a loaded demo is seen as it is: ${where}`, async () => {
    const { page, context, wrong, told } = await open(chrome, demo, options);
    const meter = page.locator('[data-limit="tokens/day"] [role="meter"]').first();
    const values = new Set();
    let queued = 0;
    for (let look = 0; look < 5; look += 1) {
      const seen = await agreed(page, told);
      queued += Number(seen.waiting);
      values.add(await meter.getAttribute("aria-valuenow"));
      await pause(1_200);
    }
    assert.ok(queued > 0, "somebody waited");
    assert.ok(values.size >= 2, `a gauge that moves: ${[...values]}`);
    const binding = page.locator('[data-limit="requests/minute"] .badge.bind', { hasText: "binding" });
    await binding.first().waitFor();
    assert.deepEqual([...wrong, ...(await page.evaluate(() => window.broken))], [], "nothing goes wrong");
    await context.close();
  });
}
