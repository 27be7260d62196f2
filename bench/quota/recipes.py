"""The ways that are compared, each as its users write it, and the callers: recipes.py JSON.

A recipe has `serve`, which starts what stands between callers and upstream and gives its URL, and `call`, which
gets one answer for a caller or raises. All callers of one way are in one process, because that is what the
recipes are written for; only a gateway would let them be in several.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import sys
import time
import urllib.request
from collections import Counter, deque
from threading import Thread

MODEL = "demo"


class Direct:
    """No limiter: what the SDK does about a 429 (two retries with a backoff) is all."""

    retries = 2

    @staticmethod
    def serve(way) -> str:
        return way.upstream

    def __init__(self, told: dict):
        self.told = told
        import openai

        self.error = openai.APIError
        self.limited = openai.RateLimitError
        self.clients = {
            tenant: openai.AsyncOpenAI(
                base_url=f"{told['url']}/v1", api_key=self.key(tenant), max_retries=self.retries, timeout=600
            )
            for tenant in told["tenants"]
        }
        # One word a token, as the simulator counts; no two prompts are the same.
        self.prompt = " ".join(["tide"] * (told["words"] - 10))

    def key(self, _tenant: str) -> str:
        return "the-account"

    async def begin(self) -> None:
        """What has to run beside the callers."""

    async def send(self, tenant: str):
        content = f"{random.getrandbits(32)} {self.prompt}"
        return await self.clients[tenant].chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": content}], max_tokens=self.told["most"]
        )

    async def call(self, tenant: str) -> None:
        await self.send(tenant)


class Patient(Direct):
    """The same with `max_retries=10`, which is what one is told to set."""

    retries = 10


class Semaphore(Direct):
    """Two at once, half a second before each, and five seconds and one more try after a 429."""

    retries = 0

    def __init__(self, told: dict):
        super().__init__(told)
        self.semaphore = asyncio.Semaphore(2)

    async def call(self, tenant: str) -> None:
        async with self.semaphore:
            await asyncio.sleep(0.5)
            try:
                await self.send(tenant)
            except self.limited:
                await asyncio.sleep(5)
                await self.send(tenant)


class Leaky(Direct):
    """A leaky bucket for requests and one for tokens (`aiolimiter`), at the limits."""

    def __init__(self, told: dict):
        super().__init__(told)
        from aiolimiter import AsyncLimiter

        self.requests = AsyncLimiter(told["requests_a_minute"], 60)
        self.tokens = AsyncLimiter(told["tokens_a_minute"], 60)

    async def call(self, tenant: str) -> None:
        async with self.requests:
            await self.tokens.acquire(self.told["words"] + self.told["most"])
            await self.send(tenant)


class Processor(Direct):
    """The well-known script that processes requests in parallel: capacities for requests and tokens that
    refill with time, one loop that sends the next request when both suffice, everybody stops for fifteen
    seconds after a 429, and five attempts."""

    retries = 0
    attempts, pause, tick = 5, 15.0, 0.001

    def __init__(self, told: dict):
        super().__init__(told)
        self.most = (told["requests_a_minute"], told["tokens_a_minute"])
        self.left = list(map(float, self.most))
        self.queue, self.again = deque(), deque()
        self.limited_at = -self.pause

    async def begin(self) -> None:
        asyncio.get_running_loop().create_task(self.loop())

    async def loop(self) -> None:
        last, cost = time.monotonic(), (1, self.told["words"] + self.told["most"])
        while True:
            now = time.monotonic()
            for unit, most in enumerate(self.most):
                self.left[unit] = min(self.left[unit] + most * (now - last) / 60, most)
            last = now
            waiting = self.again or self.queue
            if waiting and all(left >= part for left, part in zip(self.left, cost)):
                self.left = [left - part for left, part in zip(self.left, cost)]
                asyncio.get_running_loop().create_task(self.attempt(*waiting.popleft()))
            await asyncio.sleep(self.tick)
            if (rest := self.limited_at + self.pause - time.monotonic()) > 0:
                await asyncio.sleep(rest)

    async def attempt(self, tenant: str, attempts: int, done: asyncio.Future) -> None:
        try:
            await self.send(tenant)
        except self.error as error:
            if isinstance(error, self.limited):
                self.limited_at = time.monotonic()
            if attempts > 1:
                self.again.append((tenant, attempts - 1, done))
            elif not done.cancelled():
                done.set_exception(error)
        else:
            if not done.cancelled():
                done.set_result(None)

    async def call(self, tenant: str) -> None:
        done = asyncio.get_running_loop().create_future()
        self.queue.append((tenant, self.attempts, done))
        await done


class LiteLlm(Direct):
    """LiteLLM's proxy with the model's rpm and tpm set, its router told to go by them."""

    KEY = "sk-the-gateways-own"

    @staticmethod
    def serve(way) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = way.folder / "litellm.yaml"
        config.write_text(
            "model_list:\n"
            f"  - model_name: {MODEL}\n"
            "    litellm_params:\n"
            f"      model: openai/{MODEL}\n      api_base: {way.upstream}/v1\n      api_key: the-account\n"
            "      rpm: 120\n      tpm: 1500000\n      max_retries: 0\n"
            "router_settings:\n  routing_strategy: usage-based-routing-v2\n  enable_pre_call_checks: true\n"
            "  num_retries: 2\n"
            "litellm_settings:\n  telemetry: false\n"
        )
        program = os.path.join(os.path.dirname(sys.executable), "litellm")
        # Its map of prices would be fetched from the network.
        environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": LiteLlm.KEY}
        child = way.start(
            *(program, "--host", "127.0.0.1", "--port", str(port), "--config", str(config)), env=environment
        )
        # It says more than a pipe that nobody reads would hold.
        Thread(target=child.stdout.read, daemon=True).start()
        url = f"http://127.0.0.1:{port}"
        for _ in range(1_800):
            if child.poll() is not None:
                break
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/health/liveliness", timeout=5).close()
                return url
            time.sleep(0.1)
        raise SystemExit("LiteLLM did not start: " + "\n".join(way.log().splitlines()[-12:]))

    def key(self, _tenant: str) -> str:
        return self.KEY


class Tidegate(Direct):
    """The gateway, with a key for each tenant; the SDK as it comes."""

    @staticmethod
    def serve(way) -> str:
        import hashlib

        config = way.folder / "tidegate.toml"
        keys = "".join(
            f'[[keys]]\nname = "{name}"\nhash = "sha256:{hashlib.sha256(f"key-{name}".encode()).hexdigest()}"\n'
            for name in ("a", "b", "c")
        )
        limits = "".join(
            f'  {{ unit = "{unit}", limit = {limit}, per = "{per}" }},\n'
            for unit, limit, per in [
                ("requests", 120, "1m"), ("requests", 7_200, "1h"), ("requests", 172_800, "1d"),
                ("tokens", 1_500_000, "1m"), ("tokens", 120_000_000, "1h"), ("tokens", 120_000_000, "1d"),
            ]
        )
        config.write_text(
            '[server]\nlisten = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n'
            f'[upstream]\nbase_url = "{way.upstream}"\napi_key = "file:{way.folder}/key"\n'
            f'[log]\nrequests = false\n{keys}'
            f'[models."*"]\noutput_reservation = {{ default = 16_384 }}\nlimits = [\n{limits}]\n'
        )
        (way.folder / "key").write_text("the-account")
        binary = os.environ["TIDEGATE"]
        return way.started(binary, "serve", "--stateless", f"--config={config}")

    def key(self, tenant: str) -> str:
        return f"key-{tenant}"


RECIPES = {
    "SDK, 2 retries": Direct,
    "SDK, 10 retries": Patient,
    "semaphore and sleep": Semaphore,
    "leaky bucket": Leaky,
    "parallel processor": Processor,
    "LiteLLM, rpm and tpm": LiteLlm,
    "tidegate": Tidegate,
}


async def caller(recipe: Direct, tenant: str, said: dict, since: float, until: float) -> None:
    while (began := time.monotonic()) < until:
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - began):
                await recipe.call(tenant)
        except TimeoutError:
            return
        except recipe.error as error:
            if time.monotonic() >= since:
                said["failed"] += 1
                said["errors"][f"{type(error).__name__} {getattr(error, 'status_code', '')}"] += 1
        else:
            if (ended := time.monotonic()) >= since:
                said["waits"][tenant].append(round(ended - began, 3))


async def work(told: dict) -> dict:
    recipe = RECIPES[told["recipe"]](told)
    said = {"failed": 0, "errors": Counter(), "waits": {tenant: [] for tenant in told["tenants"]}}
    await recipe.begin()
    print("begun", flush=True)
    now = time.monotonic()
    since, until = now + told["warm_up"], now + told["seconds"]
    callers = [
        caller(recipe, tenant, said, since, until) for tenant, count in told["tenants"].items() for _ in range(count)
    ]
    await asyncio.gather(*callers)
    return said


if __name__ == "__main__":
    print(json.dumps(asyncio.run(work(json.loads(sys.argv[1])))))
