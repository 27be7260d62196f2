// Runs the built binary as the simulated upstream and as the gateway in front of it, and says what
// must be equal between a call through the gateway and the same call without it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { openSync, closeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

// Every key and prompt of these tests contains this word, and nothing else does.
export const PLANTED = "planted";
export const KEY = `csk-${PLANTED}-4f1c77d0b2`;
export const PROMPT = `A ${PLANTED} prompt: say something about tides.`;
export const MODEL = "demo-model";
export const MESSAGES = [{ role: "user", content: PROMPT }];

const PATIENCE_MS = 60_000;
const WINDOWS = { minute: "60000ms", hour: "3600000ms", day: "86400000ms" };

/** Limits that never bind: of every unit in every window. */
export const AMPLE = ["requests", "tokens"].flatMap((unit) =>
  Object.entries(WINDOWS).map(([name, per]) => ({ unit, limit: 1_000_000_000, name, per })),
);

class Child {
  static async start(directory, name, args) {
    const child = new Child();
    child.name = name;
    child.logPath = join(directory, `${name}.log`);
    const log = openSync(child.logPath, "w");
    const binary = process.env.TIDEGATE_BIN;
    assert.ok(binary, "TIDEGATE_BIN must name the built binary; `make test` sets it");
    // Nothing of whoever runs the tests: neither a key nor a setting.
    const env = { PATH: process.env.PATH };
    child.process = spawn(binary, args, { env, stdio: ["ignore", "pipe", log] });
    closeSync(log);
    child.exited = once(child.process, "exit");
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const line = once(child.process.stdout, "data", { signal });
    const first = await Promise.race([line, child.exited.then(() => [""])]);
    child.ready = String(first[0]);
    if (!child.ready.includes("ready")) {
      child.process.kill("SIGKILL");
      throw new Error(`${name} did not start: ${await child.log()}`);
    }
    return child;
  }

  log() {
    return readFile(this.logPath, "utf8");
  }

  async stop() {
    this.process.kill("SIGTERM");
    const [code] = await this.exited;
    assert.equal(code, 0, `${this.name} ended with ${code}: ${await this.log()}`);
  }
}

/** A simulated upstream and a gateway in front of it. */
export class Stack {
  static async start({ limits = AMPLE, config = "" } = {}) {
    const stack = new Stack();
    stack.directory = await mkdtemp(join(tmpdir(), "tidegate-"));
    stack.simulator = await Child.start(stack.directory, "simulator", [
      "simulate",
      "--listen=127.0.0.1:0",
      "--latency=0s",
      "--rate=0",
      "--jitter=0",
      "--output=60",
      "--chunk-tokens=7",
      "--models=demo-model,other-model",
      ...limits.map(({ unit, name, limit, per }) => `--limit=${unit}/${name}=${limit}@${per}`),
    ]);
    stack.direct = stack.simulator.ready.match(/(http:\S+)\/v1/)[1];
    const inline = (limit) =>
      `{ ${Object.entries(limit)
        .map(([key, value]) => `${key} = ${JSON.stringify(value)}`)
        .join(", ")} }`;
    const path = join(stack.directory, "tidegate.toml");
    await writeFile(
      path,
      `[server]
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
[upstream]
base_url = "${stack.direct}"
[log]
level = "debug"
[batch]
dir = ${JSON.stringify(join(stack.directory, "batches"))}
[breaker]
failures = 0
[models."*"]
output_reservation = { default = 16384 }
limits = [${limits.map(inline).join(", ")}]
${config}`,
    );
    try {
      stack.gateway = await Child.start(stack.directory, "gateway", ["serve", "--stateless", "--config", path]);
    } catch (error) {
      await stack.simulator.stop();
      throw error;
    }
    [, stack.via, stack.admin] = stack.gateway.ready.match(/(http:\S+)\/v1 -> .* (http:[^)\s]+)\)/);
    return stack;
  }

  get urls() {
    return [this.direct, this.via];
  }

  async stats() {
    const answer = await fetch(`${this.direct}/_sim/stats`);
    return (await answer.json()).stats;
  }

  /** The value of one series of the gateway's metrics, as written there. */
  async metric(series) {
    const text = await (await fetch(`${this.admin}/metrics`)).text();
    const line = text.split("\n").find((line) => line.startsWith(`${series} `));
    assert.ok(line, `no ${series}`);
    return Number(line.slice(series.length + 1));
  }

  async stop() {
    await this.gateway.stop();
    await this.simulator.stop();
    const log = await this.gateway.log();
    assert.ok(!log.includes(PLANTED), "a planted secret is in the log");
    assert.ok(!log.includes("panicked"), log);
    await rm(this.directory, { recursive: true });
  }
}

const ANSWER_ID = /chatcmpl-[0-9a-f]{32}/g;

/** A copy of a document with the names of one answer replaced: its id and time of creation. */
export function normal(value) {
  const named = (key, item) => {
    if (key === "created" && item > 1_500_000_000) return "…";
    return typeof item === "string" ? item.replaceAll(ANSWER_ID, "chatcmpl-…") : item;
  };
  return value === undefined ? undefined : JSON.parse(JSON.stringify(value, named));
}

/** Every chunk of a stream. */
export async function chunks(stream) {
  const all = [];
  for await (const chunk of stream) all.push(normal(chunk));
  return all;
}

/** What a caller sees: the answer, or all that its error tells. */
export async function seen(call) {
  try {
    return await call();
  } catch (error) {
    const { status, message, code, param, type } = error;
    const told = { class: error.constructor.name, status, message, code, param, type };
    return normal({ ...told, body: error.error ?? null });
  }
}

/** The rate-limit headers; of those that pass with time or use only that they are numbers. */
export function rateLimits(headers) {
  const limits = [...headers].filter(([name]) => name.startsWith("x-ratelimit-"));
  return Object.fromEntries(
    limits.map(([name, value]) => {
      assert.ok(Number.isFinite(Number(value)), `${name}: ${value}`);
      return [name, name.includes("-limit-") ? value : "a number"];
    }),
  );
}

/** Polls until `condition` holds. */
export async function until(condition, what) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `never seen: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
