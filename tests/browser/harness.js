// Runs the built binary as the simulated upstream and as the gateway in front of it, puts them under
// load, and opens the gateway's page in a real browser.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

const PATIENCE_MS = 60_000;

/** A name that would do harm if it became markup. */
export const HOSTILE = '"><script>window.harmed=1</script><img src=/x onerror=window.harmed=2>';

/** Callers: what each sends, how often at once, and in which class. */
const CALLERS = [
  { tenant: "search", model: "glm-4.7", class: "interactive", at_once: 10, prompt: 260, output: 180 },
  { tenant: "support-desk", model: "glm-4.7", class: "standard", at_once: 14, prompt: 700, output: 320 },
  { tenant: "evaluation", model: "glm-4.7", class: "batch", at_once: 18, prompt: 420, output: 240 },
  { tenant: "search", model: "llama-3.3-70b", class: "interactive", at_once: 1, prompt: 180, output: 120, every: 500 },
];

const digest = (key) => createHash("sha256").update(key).digest("hex");
const keyOf = (tenant) => `csk-${digest(tenant)}`;

/** One process of the binary, until it says that it is ready. */
class Child {
  static async start(directory, name, args, ready = /ready.*\n/) {
    const child = new Child();
    child.name = name;
    child.logPath = join(directory, `${name}.log`);
    const log = openSync(child.logPath, "a");
    const binary = process.env.TIDEGATE_BIN;
    assert.ok(binary, "TIDEGATE_BIN must name the built binary; `make test` sets it");
    // Nothing of whoever runs the tests: neither a key nor a setting.
    const env = { PATH: process.env.PATH, ACCOUNT_KEY: "csk-account" };
    child.process = spawn(binary, args, { env, stdio: ["ignore", "pipe", log] });
    closeSync(log);
    child.exited = once(child.process, "exit");
    const said = new Promise((resolve) => {
      let text = "";
      child.process.stdout.on("data", (data) => {
        text += data;
        if (ready.test(text)) resolve(text);
      });
    });
    child.ready = await Promise.race([said, child.exited.then(() => "")]);
    assert.ok(child.ready, `${name} did not start: ${await child.log()}`);
    return child;
  }

  log() {
    return readFile(this.logPath, "utf8");
  }

  async stop(signal = "SIGTERM") {
    this.process.kill(signal);
    const [code] = await this.exited;
    if (signal === "SIGTERM") assert.equal(code, 0, `${this.name} ended with ${code}: ${await this.log()}`);
  }
}

/** A simulated upstream, a gateway with keys and limits, and those who call it. `scale` is how many
 * times faster than the clock the windows pass, `token` what the admin port asks for. */
export class World {
  static async start({ scale = 1, token = "" } = {}) {
    const world = new World();
    world.directory = await mkdtemp(join(tmpdir(), "tidegate-browser-"));
    const limits = [
      ["requests", "minute", 180, 60],
      ["requests", "hour", 7_200, 3_600],
      ["requests", "day", 172_800, 86_400],
      ["tokens", "minute", 90_000, 60],
      ["tokens", "hour", 2_500_000, 3_600],
      ["tokens", "day", 20_000_000, 86_400],
    ];
    world.simulator = await Child.start(world.directory, "simulator", [
      "simulate",
      "--listen=127.0.0.1:0",
      `--time-scale=${scale}`,
      "--latency=250ms",
      "--rate=900",
      "--output=40..260",
      "--fault=500=0.004",
      ...limits.map(([unit, name, limit]) => `--limit=${unit}/${name}=${limit}`),
    ]);
    world.upstream = world.simulator.ready.match(/(http:\S+)\/v1/)[1];
    const tenants = [...new Set(CALLERS.map((it) => it.tenant))];
    world.config = join(world.directory, "tidegate.toml");
    const inline = limits.map(([unit, name, limit, seconds]) => {
      const per = `${Math.round((seconds * 1_000) / scale)}ms`;
      // One limit is learned: the file says more than the upstream allows.
      const written = unit === "requests" && name === "day" ? limit * 2 : limit;
      return `{ unit = "${unit}", limit = ${written}, per = "${per}", name = "${name}" }`;
    });
    const secret = join(world.directory, "admin-token");
    if (token) await writeFile(secret, `${token}\n`);
    await writeFile(
      world.config,
      `[server]
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
admin_token = ${JSON.stringify(token ? `file:${secret}` : "")}
drain_timeout = "4s"
[upstream]
base_url = "${world.upstream}"
api_key = "env:ACCOUNT_KEY"
[batch]
dir = ${JSON.stringify(join(world.directory, "batches"))}
[models."*"]
output_reservation = { default = 400 }
limits = [${inline.join(",\n  ")}]
${tenants.map((name) => `[[keys]]\nname = ${JSON.stringify(name)}\nhash = "sha256:${digest(keyOf(name))}"\n`).join("")}`,
    );
    await world.open();
    return world;
  }

  /** Starts the gateway; again at the same addresses if it has been open before. */
  async open() {
    const where = this.admin
      ? [`--listen=${new URL(this.api).host}`, `--admin=${new URL(this.admin).host}`]
      : [];
    this.gateway = await Child.start(this.directory, "gateway", [
      "serve",
      "--stateless",
      `--config=${this.config}`,
      ...where,
    ]);
    [, this.api, this.admin] = this.gateway.ready.match(/(http:\S+)\/v1 -> .* (http:[^)\s]+)\)/);
  }

  /** A chat request of a tenant; resolves to its status. */
  async chat(tenant, model, { prompt = 20, output = 20, headers = {}, signal } = {}) {
    const answer = await fetch(`${this.api}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${keyOf(tenant)}`, "content-type": "application/json", ...headers },
      body: JSON.stringify({
        model,
        messages: [{ role: "user", content: "tide ".repeat(prompt) }],
        max_completion_tokens: output,
      }),
      signal,
    });
    await answer.arrayBuffer();
    return answer.status;
  }

  /** Has everybody call until `stop` is called. */
  load() {
    this.loaded = true;
    // One for each call: a signal remembers everybody who ever listened to it.
    this.running = new Set();
    this.calls = CALLERS.flatMap(({ tenant, model, at_once, prompt, output, every = 0, ...caller }) =>
      Array.from({ length: at_once }, async (_, number) => {
        const headers = { "x-tidegate-class": caller.class };
        // One has little patience, so that somebody is turned away now and then.
        const hasty = number === 3;
        if (hasty) headers["x-tidegate-max-wait"] = "4s";
        while (this.loaded) {
          const call = new AbortController();
          this.running.add(call);
          const { signal } = call;
          const status = await this.chat(tenant, model, { prompt, output, headers, signal }).catch(() => null);
          this.running.delete(call);
          // Nobody who is turned away asks again at once.
          if (status !== 200 || hasty) await pause(4_000);
          await pause(every);
        }
      }),
    );
  }

  async quiet() {
    this.loaded = false;
    for (const call of this.running ?? []) call.abort();
    await Promise.all(this.calls ?? []);
  }

  /** A batch of so many requests; resolves to its id. */
  async batch(tenant, lines) {
    const body = { model: "glm-4.7", messages: [{ role: "user", content: "tide ".repeat(300) }], max_completion_tokens: 200 };
    const line = (number) => JSON.stringify({ custom_id: `line-${number}`, method: "POST", url: "/v1/chat/completions", body });
    const form = new FormData();
    form.set("purpose", "batch");
    form.set("file", new Blob([Array.from({ length: lines }, (_, number) => line(number)).join("\n")]), "lines.jsonl");
    const headers = { authorization: `Bearer ${keyOf(tenant)}` };
    const file = await (await fetch(`${this.api}/v1/files`, { method: "POST", headers, body: form })).json();
    assert.ok(file.id, JSON.stringify(file));
    const batch = await fetch(`${this.api}/v1/batches`, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body: JSON.stringify({ input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" }),
    });
    const { id, ...rest } = await batch.json();
    assert.ok(id, JSON.stringify(rest));
    return id;
  }

  async status() {
    return (await fetch(`${this.admin}/status`)).json();
  }

  async stop() {
    await this.quiet();
    await this.gateway.stop().catch(() => {});
    await this.simulator.stop().catch(() => {});
    await rm(this.directory, { recursive: true });
  }
}

/** What a stranger has after a minute: `tidegate demo`, and callers without keys. */
export class Demo {
  static async start({ scale = 1 } = {}) {
    const demo = new Demo();
    demo.directory = await mkdtemp(join(tmpdir(), "tidegate-browser-"));
    const flags = ["--listen=127.0.0.1:0", "--admin=127.0.0.1:0", `--time-scale=${scale}`];
    demo.child = await Child.start(demo.directory, "demo", ["demo", ...flags], /metrics +\S+\n/);
    demo.api = demo.child.ready.match(/base URL +(\S+)\/v1\n/)[1];
    demo.admin = demo.child.ready.match(/live page +(\S+)\/\n/)[1];
    return demo;
  }

  /** Has so many call until the demo ends. */
  load(callers) {
    this.loaded = true;
    const body = JSON.stringify({
      model: "demo",
      messages: [{ role: "user", content: "How high is the tide? ".repeat(40) }],
      max_completion_tokens: 200,
    });
    const headers = { "content-type": "application/json" };
    this.calls = Array.from({ length: callers }, async () => {
      while (this.loaded) {
        const answer = await fetch(`${this.api}/v1/chat/completions`, { method: "POST", headers, body });
        await answer.arrayBuffer();
        assert.equal(answer.status, 200, "nobody is turned away");
      }
    });
  }

  async status() {
    return (await fetch(`${this.admin}/status`)).json();
  }

  async stop() {
    this.loaded = false;
    await Promise.all(this.calls ?? []);
    await this.child.stop();
    await rm(this.directory, { recursive: true });
  }
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Polls until `condition` returns something, and returns that. */
export async function until(condition, what) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const seen = await condition();
    if (seen) return seen;
    assert.ok(Date.now() < deadline, `never seen: ${what}`);
    await pause(50);
  }
}

/** Debian's browser. */
export function browser() {
  const executablePath = process.env.CHROMIUM ?? execFileSync("which", ["chromium"], { encoding: "utf8" }).trim();
  // A sandbox needs a user that is not root.
  const chromiumSandbox = process.getuid() !== 0;
  return chromium.launch({ executablePath, chromiumSandbox });
}

export const DESKTOP = { width: 1280, height: 900 };
export const PHONE = { width: 390, height: 844 };
export const NARROW = { width: 360, height: 740 };

/** The page, opened and live, with everything in view that went wrong on it. */
export async function open(chrome, world, { viewport = DESKTOP, theme = "light", motion = "no-preference" } = {}) {
  const context = await chrome.newContext({
    viewport,
    colorScheme: theme,
    reducedMotion: motion,
    deviceScaleFactor: viewport.width < 500 ? 2 : 1,
  });
  const page = await context.newPage();
  const wrong = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) wrong.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => wrong.push(`error: ${error}`));
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== world.admin) wrong.push(`elsewhere: ${request.url()}`);
  });
  page.on("response", (response) => {
    if (response.status() >= 400) wrong.push(`${response.status()}: ${response.url()}`);
  });
  await page.addInitScript(() => {
    window.broken = [];
    addEventListener("securitypolicyviolation", (event) => window.broken.push(`${event.violatedDirective}: ${event.blockedURI}`));
  });
  // What the stream says, by the instant of each status.
  const told = new Map();
  const events = await context.newCDPSession(page);
  await events.send("Network.enable");
  events.on("Network.eventSourceMessageReceived", ({ data }) => {
    const status = JSON.parse(data);
    told.set(status.at, status);
  });
  await page.goto(world.admin);
  await page.locator('#live[data-state="live"]').waitFor();
  return { page, context, wrong, told };
}
