// Screenshots of the page under load: `node screenshots.js DIRECTORY SECONDS`. Those in docs/images are
// made by `make screenshots`.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import { DESKTOP, PHONE, World, browser, open, pause } from "./harness.js";

/** As much of the page as a reader looks at in passing. */
const GLANCE = { desktop: { width: 1280, height: 1120 }, phone: PHONE };

/** Takes all four: of the whole page, or of its beginning with only the busiest pool open. */
export async function shoot(chrome, world, directory, whole = true) {
  await mkdir(directory, { recursive: true });
  const sizes = whole ? { desktop: DESKTOP, phone: PHONE } : GLANCE;
  for (const [where, viewport] of Object.entries(sizes)) {
    for (const theme of ["light", "dark"]) {
      const { page, context } = await open(chrome, world, { viewport, theme, motion: "reduce" });
      await page.locator("#plots canvas").first().waitFor();
      // One more status, so that what came late has its place.
      await pause(1_500);
      if (!whole) {
        for (const pool of await page.locator("details[open] > summary", { hasText: "nobody waits" }).all()) await pool.click();
        await page.evaluate(() => document.activeElement.blur());
        await page.mouse.move(0, 0);
      }
      await page.screenshot({ path: join(directory, `page-${where}-${theme}.png`), fullPage: whole });
      await context.close();
    }
  }
}

if (import.meta.url === `file://${process.argv[1]}`) {
  const [, , directory, seconds = "240"] = process.argv;
  const world = await World.start();
  const chrome = await browser();
  try {
    world.load();
    await world.batch("evaluation", 4_000);
    await pause(Number(seconds) * 1_000);
    await shoot(chrome, world, directory, false);
  } finally {
    await chrome.close();
    await world.stop();
  }
}
