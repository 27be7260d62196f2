// The live page of a gateway that asks for a token, in a real browser.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { PHONE, World, browser } from "./harness.js";

const TOKEN = "planted-admin-token-0123456789";

let world;
let chrome;

before(async () => {
  world = await World.start({ token: TOKEN });
  chrome = await browser();
});

after(async () => {
  await chrome?.close();
  await world?.stop();
});

/** A browser of somebody's own, with everything that a policy forbade. */
async function visitor(options = {}) {
  const context = await chrome.newContext(options);
  const page = await context.newPage();
  await page.addInitScript(() => {
    window.broken = [];
    addEventListener("securitypolicyviolation", (event) => window.broken.push(`${event.violatedDirective}: ${event.blockedURI}`));
  });
  return { context, page };
}

async function sign(page, token) {
  await page.getByLabel("Token", { exact: true }).fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
}

test("a person signs in once, watches, and signs out", async () => {
  const { context, page } = await visitor();
  const asked = await page.goto(world.admin);
  assert.equal(asked.status(), 401);
  assert.equal(await page.title(), "Sign in · Tidegate");
  await sign(page, "not-the-token-at-all");
  await page.getByRole("alert").filter({ hasText: "That is not the token." }).waitFor();
  await sign(page, TOKEN);
  await page.locator('#live[data-state="live"]').waitFor();
  assert.equal(new URL(page.url()).pathname, "/");
  assert.deepEqual(await page.evaluate(() => window.broken), [], "the policy forbids nothing of it");
  assert.equal(await page.evaluate(() => document.cookie), "", "no script sees the session");
  const [cookie] = await context.cookies();
  assert.deepEqual([cookie.httpOnly, cookie.sameSite, cookie.name], [true, "Strict", "tidegate_session"]);
  assert.ok(!cookie.value.includes(TOKEN));
  // Another tab of the same person need not sign in.
  const other = await context.newPage();
  await other.goto(world.admin);
  await other.locator('#live[data-state="live"]').waitFor();
  await other.getByRole("link", { name: "session" }).click();
  await other.getByRole("button", { name: "Sign out" }).click();
  await other.getByLabel("Token", { exact: true }).waitFor();
  // The page that is still open notices when it asks next, and makes room for the form.
  await page.getByLabel("Token", { exact: true }).waitFor();
  await context.close();
});

test("a session is of the name that it was begun under", async () => {
  const { context, page } = await visitor();
  await page.goto(world.admin);
  await sign(page, TOKEN);
  await page.locator('#live[data-state="live"]').waitFor();
  // The same port by another name is another site.
  const elsewhere = await context.newPage();
  const answer = await elsewhere.goto(world.admin.replace("127.0.0.1", "localhost"));
  assert.equal(answer.status(), 401);
  await page.reload();
  await page.locator('#live[data-state="live"]').waitFor();
  await context.close();
});

test("the form is of use without a mouse, on a telephone, in both themes", async () => {
  for (const colorScheme of ["light", "dark"]) {
    const { context, page } = await visitor({ viewport: PHONE, colorScheme });
    await page.goto(world.admin);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.equal(wide, false, "nothing to scroll sideways");
    assert.equal(await page.evaluate(() => document.activeElement?.id), "token", "typing goes there");
    await page.keyboard.type(TOKEN);
    await page.keyboard.press("Enter");
    await page.locator('#live[data-state="live"]').waitFor();
    await context.close();
  }
});
