// openai and @cerebras/cerebras_cloud_sdk for Node: what a client sees through the gateway equals
// what it sees of the upstream itself.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import Cerebras from "@cerebras/cerebras_cloud_sdk";
import OpenAI from "openai";

import {
  AMPLE, KEY, MESSAGES, MODEL, PLANTED, PROMPT, Stack, chunks, normal, rateLimits, seen, until,
} from "./harness.js";

const TOOLS = [
  {
    type: "function",
    function: { name: "tide_at", parameters: { type: "object", properties: {} } },
  },
];

const SDKS = {
  // Its base URL ends in the version.
  openai: (url, options = {}) =>
    new OpenAI({ baseURL: `${url}/v1`, apiKey: KEY, maxRetries: 0, ...options }),
  // Its base URL does not; making a client calls tcp_warming.
  cerebras: (url, options = {}) =>
    new Cerebras({ baseURL: url, apiKey: KEY, maxRetries: 0, ...options }),
};

const REQUESTS = {
  plain: {},
  "a limit": { max_completion_tokens: 10 },
  "as much as the model can": { max_completion_tokens: -1, temperature: 0, seed: 0, top_p: 1 },
  "three choices": { n: 3, max_completion_tokens: 25 },
  tools: { tools: TOOLS, tool_choice: "auto" },
  "not ASCII": { messages: [{ role: "user", content: `${PROMPT} Ebbe 🌊, 潮汐` }] },
};

const ERRORS = {
  "an unknown field": [{ bogus: 1 }, "BadRequestError", 400],
  "both limits": [{ max_tokens: 5, max_completion_tokens: 5 }, "BadRequestError", 400],
  "an unknown model": [{ model: "no-such-model" }, "NotFoundError", 404],
  "status:401": [null, "AuthenticationError", 401],
  "status:402": [null, "APIError", 402],
  "status:413": [null, "APIError", 413],
  "status:422": [null, "UnprocessableEntityError", 422],
  "status:500": [null, "InternalServerError", 500],
  blocked: [null, "PermissionDeniedError", 403],
  queue: [null, "RateLimitError", 429],
  "queue:503": [null, "InternalServerError", 503],
  "quota:tokens-minute": [null, "RateLimitError", 429],
};

let stack;
before(async () => {
  stack = await Stack.start({ config: "[retry]\nmax_attempts = 1\n" });
});
after(() => stack.stop());

for (const [name, make] of Object.entries(SDKS)) {
  describe(name, () => {
    let clients;
    before(() => {
      clients = stack.urls.map((url) => make(url));
    });

    const chat = (client, fields = {}, options = {}) =>
      client.chat.completions.create({ model: MODEL, messages: MESSAGES, ...fields }, options);
    const both = (call) => Promise.all(clients.map(call));

    for (const [what, fields] of Object.entries(REQUESTS)) {
      test(`an answer is the same: ${what}`, async () => {
        const [direct, via] = await both(async (client) => normal(await chat(client, fields)));
        assert.deepEqual(via, direct);
        assert.ok(direct.usage.total_tokens > 0);
        assert.equal(direct.choices.length, fields.n ?? 1);
        assert.ok(direct.time_info, "a field of the vendor's");
      });

      test(`a stream is the same: ${what}`, async () => {
        const [direct, via] = await both(async (client) =>
          chunks(await chat(client, { ...fields, stream: true })),
        );
        assert.deepEqual(via, direct);
        assert.ok(direct.length > 3);
        assert.ok(direct.at(-1).usage.completion_tokens > 0, "the last chunk tells the usage");
      });
    }

    for (const fault of ["gzip", "tiny-frames", "no-usage"]) {
      test(`an odd transfer is the same: ${fault}`, async () => {
        const headers = { "x-sim-fault": fault };
        const [direct, via] = await both(async (client) => [
          normal(await chat(client, {}, { headers })),
          await chunks(await chat(client, { stream: true }, { headers })),
        ]);
        assert.deepEqual(via, direct);
      });
    }

    test("text completions are the same", async () => {
      const fields = { model: MODEL, prompt: PROMPT, max_tokens: 20 };
      const [direct, via] = await both(async (client) => [
        normal(await client.completions.create(fields)),
        await chunks(await client.completions.create({ ...fields, stream: true })),
      ]);
      assert.deepEqual(via, direct);
      assert.equal(direct[0].choices[0].finish_reason, "length");
    });

    test("models are the same", async () => {
      const [direct, via] = await both(async (client) => {
        const { data } = await client.models.list();
        return normal([data, await client.models.retrieve("other-model")]);
      });
      assert.deepEqual(via, direct);
      assert.deepEqual(via[0].map((model) => model.id), ["demo-model", "other-model"]);
    });

    test("headers are the same", async () => {
      const raws = await both((client) => chat(client).asResponse());
      const [direct, via] = raws.map((raw) => rateLimits(raw.headers));
      assert.deepEqual(via, direct);
      assert.equal(Object.keys(direct).length, 6);
      for (const raw of raws) {
        assert.match(raw.headers.get("x-request-id"), /^[0-9a-f]{32}$/);
        assert.ok((await raw.json()).usage);
      }
      assert.match(raws[1].headers.get("x-tidegate-wait-ms"), /^\d+$/);
    });

    for (const [what, [fields, kind, status]] of Object.entries(ERRORS)) {
      for (const stream of [false, true]) {
        test(`an error is the same: ${what}${stream ? ", streaming" : ""}`, async () => {
          // A pool of its own: an error that says that a quota is used up holds back the next.
          const own = stack.urls.map((url) => make(url, { apiKey: `${KEY}-${what.length}` }));
          const options = fields ? {} : { headers: { "x-sim-fault": what } };
          const call = (client) => seen(() => chat(client, { ...fields, stream }, options));
          const [direct, via] = await Promise.all(own.map(call));
          assert.deepEqual([direct.class, direct.status], [kind, status]);
          assert.deepEqual(via, direct);
        });
      }
    }

    for (const fault of ["cut:2", "error-event:2"]) {
      test(`a broken stream is the same: ${fault}`, async () => {
        const call = async (client) => {
          const got = [];
          const told = await seen(async () => {
            const headers = { "x-sim-fault": fault };
            const stream = await chat(client, { stream: true }, { headers });
            for await (const chunk of stream) got.push(normal(chunk));
          });
          return { got, told };
        };
        const direct = await call(clients[0]);
        assert.ok(direct.told?.class, "it broke");
        // Three were sent; node-fetch, which one of the SDKs uses, keeps the last back when it breaks.
        assert.ok(direct.got.length >= 2, "what was sent before it broke");
        // What was sent last and the break can meet in the gateway, or not.
        for (let attempt = 0; attempt < 40; attempt += 1) {
          assert.deepEqual(await call(clients[1]), direct, `attempt ${attempt}`);
        }
      });
    }

    test("a timeout is the same", async () => {
      const options = { timeout: 300, headers: { "x-sim-fault": "hang" } };
      const [direct, via] = await both((client) => seen(() => chat(client, {}, options)));
      assert.equal(direct.class, "APIConnectionTimeoutError");
      assert.deepEqual(via, direct);
      const idle = async () => (await stack.metric("tidegate_requests_in_flight")) === 0;
      await until(idle, "a gateway that lets go of a request whose caller has gone");
    });

    test("many calls at once are the same", async () => {
      const [direct, via] = await both((client) =>
        Promise.all(
          Array.from({ length: 20 }, async (_, index) => {
            const messages = [{ role: "user", content: `${PROMPT} ${index}` }];
            const stream = index % 2 === 1;
            const answer = await chat(client, { messages, stream });
            return stream ? chunks(answer) : normal(answer);
          }),
        ),
      );
      assert.deepEqual(via, direct);
    });

    test("a burst above the limit waits instead of failing", async () => {
      const limits = [{ unit: "requests", limit: 5, name: "minute", per: "3000ms" }];
      const own = await Stack.start({ limits });
      try {
        const burst = (url, apiKey) => {
          const client = make(url, { apiKey });
          return Promise.all(Array.from({ length: 8 }, () => seen(() => chat(client))));
        };
        const direct = await burst(own.direct, `${KEY}-another-account`);
        assert.equal(direct.filter((it) => it.class === "RateLimitError").length, 3);
        const via = await burst(own.via, KEY);
        assert.ok(via.every((it) => it.usage), "all are answered");
        assert.equal((await own.stats()).rejected, 3, "only those without the gateway");
      } finally {
        await own.stop();
      }
    });

    test("a request above the limit is refused and not sent again", async () => {
      const minute = { unit: "tokens", limit: 20_000, name: "minute", per: "60000ms" };
      const own = await Stack.start({ limits: [...AMPLE.slice(0, 3), minute] });
      try {
        const client = make(own.via, { maxRetries: 2 });
        const told = await seen(() => chat(client, { max_completion_tokens: 30_000 }));
        // One SDK names the code in the error, the other has it only in the body.
        const code = told.code ?? told.body.code;
        assert.deepEqual([told.status, code], [413, "above_limit"]);
        assert.ok(!told.message.includes(PLANTED));
        assert.equal(await own.metric('tidegate_requests_total{outcome="above_limit"}'), 1);
        assert.equal((await own.stats()).started, 0);
      } finally {
        await own.stop();
      }
    });
  });
}
