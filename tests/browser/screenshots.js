// Screenshots of the page under load: `node screenshots.js DIRECTORY SECONDS`. Those in docs/images are
// made by `make screenshots`.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import { DESKTOP, PHONE, World, browser, open, pause } from "./harness.js";

/** Takes all four; `full` takes the whole page and not only the window. */
export async function shoot(chrome, world, directory, full = true) {
  await mkdir(directory, { recursive: true });
  for (const [where, viewport] of Object.entries({ desktop: DESKTOP, phone: PHONE })) {
    for (const theme of ["light", "dark"]) {
      const { page, context } = await open(chrome, world, { viewport, theme, motion: "reduce" });
      await page.locator("#plots canvas").first().waitFor();
      // One more status, so that what came late has its place.
      await pause(1_500);
      await page.screenshot({ path: join(directory, `page-${where}-${theme}.png`), fullPage: full });
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
    await world.batch("evaluation", 400);
    await pause(Number(seconds) * 1_000);
    await shoot(chrome, world, directory, process.env.FULL !== "no");
  } finally {
    await chrome.close();
    await world.stop();
  }
}
