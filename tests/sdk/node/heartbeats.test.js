// Streams that wait longer than their client's timeout: kept alive by comments that no SDK shows.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import Cerebras from "@cerebras/cerebras_cloud_sdk";
import OpenAI from "openai";

import { AMPLE, KEY, MESSAGES, MODEL, Stack, chunks, seen } from "./harness.js";

const ONE_IN_TWO_SECONDS = [
  { unit: "requests", limit: 1, name: "minute", per: "2000ms" },
  ...AMPLE.slice(1),
];
const POLITE = `[admission]
heartbeat_after = "200ms"
heartbeat_every = "200ms"
[retry]
max_attempts = 1
`;
// Shorter than the wait: in these SDKs it runs until the head of the answer.
const TIMEOUT_MS = 1_000;

const SDKS = {
  openai: (url, options) => new OpenAI({ baseURL: `${url}/v1`, ...options }),
  cerebras: (url, options) => new Cerebras({ baseURL: url, ...options }),
};

async function withStack(options, body) {
  const stack = await Stack.start(options);
  try {
    await body(stack);
  } finally {
    await stack.stop();
  }
}

for (const [name, make] of Object.entries(SDKS)) {
  describe(`${name}, waiting`, () => {
    const client = (url, apiKey = KEY) => make(url, { apiKey, maxRetries: 0 });
    // One SDK tells the gateway of a request's own timeout only, not of its client's.
    const stream = (of, options = {}) =>
      of.chat.completions.create(
        { model: MODEL, messages: MESSAGES, stream: true },
        { timeout: TIMEOUT_MS, ...options },
      );

    for (const [how, config] of [["as configured", POLITE], ["by default", ""]]) {
      test(`a wait longer than the timeout ends in the answer, ${how}`, () =>
        withStack({ limits: ONE_IN_TWO_SECONDS, config }, async (own) => {
          const expected = await chunks(
            await stream(client(own.direct, `${KEY}-another-account`)),
          );
          const via = client(own.via);
          assert.deepEqual(await chunks(await stream(via)), expected, "the first does not wait");
          const began = Date.now();
          assert.deepEqual(await chunks(await stream(via)), expected);
          assert.ok(Date.now() - began > TIMEOUT_MS);
          assert.equal(await own.metric("tidegate_heartbeat_streams_total"), 1);
        }));
    }

    test("without them the timeout is a deadline", () =>
      withStack({ limits: ONE_IN_TWO_SECONDS, config: POLITE }, async (own) => {
        const via = client(own.via);
        await chunks(await stream(via));
        const headers = { "x-tidegate-heartbeat": "off" };
        const told = await seen(() => stream(via, { headers }));
        assert.deepEqual([told.class, told.status], ["RateLimitError", 429]);
      }));

    test("an error after comments is the SDK's own", () =>
      withStack({ limits: ONE_IN_TWO_SECONDS, config: POLITE }, async (own) => {
        const via = client(own.via);
        await chunks(await stream(via));
        const headers = { "x-sim-fault": "status:402" };
        const waiting = await stream(via, { headers });
        const told = await chunks(waiting).catch((error) => error);
        // One SDK keeps what the event says as the error's cause.
        const says = `${told.message} ${told.cause?.message ?? ""} ${told.code}`;
        assert.match(says, /Payment required|payment_required/);
        const event = { timeout: 30_000, headers: { "x-sim-fault": "error-event:0" } };
        const broken = await stream(client(own.direct, `${KEY}-another-account`), event);
        const usual = await chunks(broken).catch((error) => error);
        assert.equal(told.constructor, usual.constructor, "as for the upstream's own events");
        const failed = await own.metric('tidegate_requests_total{outcome="upstream_error"}');
        assert.equal(failed, 1);
      }));
  });
}
