// Files and batches through the real client, which knows nothing of the gateway.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import OpenAI, { toFile } from "openai";

import { AMPLE, KEY, MODEL, PROMPT, Stack, seen, until } from "./harness.js";

const CHAT = "/v1/chat/completions";
const TWO_AN_HOUR = [
  { unit: "requests", limit: 2, name: "hour", per: "3600000ms" },
  ...AMPLE.filter(({ unit, name }) => unit !== "requests" || name !== "hour"),
];

const line = (number, changes = {}) =>
  JSON.stringify({
    custom_id: `job-${number}`,
    method: "POST",
    url: CHAT,
    body: {
      model: MODEL,
      messages: [{ role: "user", content: `${PROMPT} Number ${number}.` }],
      max_completion_tokens: 1 + (number % 20),
    },
    ...changes,
  });

const lines = (count) => Array.from({ length: count }, (_, number) => line(number));

const clientOf = (stack) =>
  new OpenAI({ baseURL: `${stack.via}/v1`, apiKey: KEY, maxRetries: 0 });

async function make(client, content, fields = {}) {
  const file = await toFile(Buffer.from(content.join("\n")), "jobs.jsonl");
  const uploaded = await client.files.create({ file, purpose: "batch" });
  assert.deepEqual([uploaded.object, uploaded.filename], ["file", "jobs.jsonl"]);
  return client.batches.create({
    input_file_id: uploaded.id,
    endpoint: CHAT,
    completion_window: "24h",
    ...fields,
  });
}

async function ended(client, batch, status) {
  let found;
  await until(async () => {
    found = await client.batches.retrieve(batch.id);
    return ["completed", "failed", "expired", "cancelled"].includes(found.status);
  }, "the end of a batch");
  assert.equal(found.status, status, JSON.stringify(found));
  assert.ok(found[`${status}_at`] >= found.created_at);
  return found;
}

async function results(client, id) {
  const text = await (await client.files.content(id)).text();
  const entries = text.trim().split("\n").map((entry) => JSON.parse(entry));
  const byId = new Map(entries.map((entry) => [entry.custom_id, entry]));
  assert.equal(byId.size, entries.length, "no request has two results");
  return byId;
}

describe("openai, batches", () => {
  let stack, client;
  before(async () => {
    stack = await Stack.start();
    client = clientOf(stack);
  });
  after(() => stack.stop());

  test("from upload to download", async () => {
    const metadata = { run: "nightly" };
    const batch = await make(client, lines(500), { metadata });
    assert.equal(batch.status, "validating");
    const done = await ended(client, batch, "completed");
    assert.deepEqual(done.request_counts, { total: 500, completed: 500, failed: 0 });
    assert.deepEqual([done.metadata, done.errors, done.error_file_id], [metadata, null, null]);
    const answers = await results(client, done.output_file_id);
    assert.equal(answers.size, 500);
    let tokens = 0;
    for (let number = 0; number < 500; number += 1) {
      const { response, error } = answers.get(`job-${number}`);
      assert.deepEqual([response.status_code, error], [200, null]);
      assert.equal(response.body.usage.completion_tokens, 1 + (number % 20));
      tokens += response.body.usage.total_tokens;
    }
    assert.equal(done.usage.total_tokens, tokens);
  });

  test("lists are paged through", async () => {
    const made = [];
    for (let number = 0; number < 25; number += 1) made.push(await make(client, [line(number)]));
    const ids = made.map(({ id }) => id).reverse();
    const listed = [];
    for await (const batch of client.batches.list({ limit: 10 })) listed.push(batch.id);
    assert.deepEqual(listed.slice(0, 25), ids);
    const files = [];
    for await (const file of client.files.list({ purpose: "batch" })) files.push(file.id);
    assert.deepEqual(files.slice(0, 25), made.map((batch) => batch.input_file_id).reverse());
    for (const batch of made) await ended(client, batch, "completed");
    assert.deepEqual(await client.files.delete(files[0]), {
      id: files[0],
      object: "file",
      deleted: true,
    });
  });

  test("bad lines are named", async () => {
    const batch = await make(client, [line(0), "{", line(2, { method: "GET" })]);
    const failed = await ended(client, batch, "failed");
    const problems = failed.errors.data.map(({ line, code }) => [line, code]);
    assert.deepEqual(problems, [[2, "invalid_json_line"], [3, "invalid_method"]]);
  });

  test("what cannot be is an exception of the SDK", async () => {
    const missing = await seen(() => client.batches.retrieve("batch_none"));
    assert.deepEqual([missing.class, missing.code], ["NotFoundError", "not_found"]);
    const file = await toFile(Buffer.from("{}"), "x.jsonl");
    const purpose = await seen(() => client.files.create({ file, purpose: "fine-tune" }));
    assert.deepEqual([purpose.class, purpose.param], ["BadRequestError", "purpose"]);
  });
});

test("openai: a cancelled batch has what was answered", async () => {
  const stack = await Stack.start({ limits: TWO_AN_HOUR });
  try {
    const client = clientOf(stack);
    const batch = await make(client, lines(6));
    const answered = async () =>
      (await client.batches.retrieve(batch.id)).request_counts.completed === 2;
    await until(answered, "two answers");
    assert.equal((await client.batches.cancel(batch.id)).status, "cancelling");
    const done = await ended(client, batch, "cancelled");
    assert.deepEqual(done.request_counts, { total: 6, completed: 2, failed: 4 });
    assert.equal((await results(client, done.output_file_id)).size, 2);
    const errors = await results(client, done.error_file_id);
    assert.deepEqual(
      [...errors.values()].map(({ error, response }) => [error.code, response]),
      Array(4).fill(["batch_cancelled", null]),
    );
    const twice = await seen(() => client.batches.cancel(batch.id));
    assert.deepEqual([twice.class, twice.code], ["ConflictError", "batch_ended"]);
  } finally {
    await stack.stop();
  }
});
