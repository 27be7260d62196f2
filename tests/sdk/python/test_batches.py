"""Files and batches through `client.files` and `client.batches`, which know nothing of the gateway."""

import asyncio
import json

import httpx
import openai
import pytest
from openai.types import Batch, BatchError, FileDeleted, FileObject

from conftest import ONCE
from harness import AMPLE, KEY, MODEL, PLANTED, PROMPT, Limit, wait_until
from test_keys import ACCOUNT_KEY, TEAM_KEYS, virtual_keys

CHAT = "/v1/chat/completions"
ENDS = {"completed", "failed", "expired", "cancelled"}
# When what happened; the others are null.
TIMES = {
    "completed": {"in_progress_at", "finalizing_at", "completed_at"},
    "failed": {"failed_at"},
    "expired": {"in_progress_at", "finalizing_at", "expired_at"},
    "cancelled": {"in_progress_at", "cancelling_at", "finalizing_at", "cancelled_at"},
}
ALL_TIMES = set().union(*TIMES.values())


def body(number: int) -> dict:
    """A request that is like no other one, and whose answer has a length of its own."""
    messages = [{"role": "user", "content": f"{PROMPT} Number {number}."}]
    return {"model": MODEL, "messages": messages, "max_completion_tokens": 1 + number % 50}


def line(number: int, **changes) -> str:
    entry = {"custom_id": f"job-{number}", "method": "POST", "url": CHAT, "body": body(number)}
    return json.dumps({**entry, **changes})


def jsonl(lines) -> bytes:
    return "\n".join(lines).encode()


def lines_of(client, file_id) -> dict[str, dict]:
    """The lines of a file by their `custom_id`, of which each is there once."""
    lines = [json.loads(text) for text in client.files.content(file_id).text.splitlines()]
    found = {entry["custom_id"]: entry for entry in lines}
    assert len(found) == len(lines), "no request has two results"
    assert len({entry["id"] for entry in lines}) == len(lines)
    assert all(entry.keys() == {"id", "custom_id", "response", "error"} for entry in lines)
    return found


def make(client, content: bytes, window="24h", **fields) -> Batch:
    uploaded = client.files.create(file=("jobs.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=uploaded.id, endpoint=CHAT, completion_window=window, **fields
    )


def ended(client, batch: Batch, status: str) -> Batch:
    """The batch once it has ended, in the way that is documented for this end."""

    def over():
        seen = client.batches.retrieve(batch.id)
        return seen if seen.status in ENDS else None

    found = wait_until(over, "the end of a batch")
    assert found.status == status, found
    told = {name for name in ALL_TIMES if getattr(found, name) is not None}
    assert told == TIMES[status]
    order = sorted(TIMES[status], key=lambda name: getattr(found, name))
    assert all(getattr(found, name) >= found.created_at for name in order)
    assert getattr(found, f"{status}_at") == getattr(found, order[-1]), "its end was last"
    assert found.expires_at > found.created_at
    assert (found.errors is None) == (status != "failed")
    return found


def counts(batch: Batch) -> tuple[int, int, int]:
    told = batch.request_counts
    return told.total, told.completed, told.failed


@pytest.fixture
def client(stack):
    with openai.OpenAI(base_url=f"{stack.via}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture
def few(start):
    """A stack whose upstream answers so many requests and no more, and a client of it."""
    clients = []

    def few(requests: int):
        own = start(limits=[Limit("requests", requests, "hour", 3_600), *AMPLE[3:]], config=ONCE)
        made = openai.OpenAI(base_url=f"{own.via}/v1", api_key=KEY, max_retries=0)
        clients.append(made)
        return own, made

    yield few
    for made in clients:
        made.close()


def known_only(model, value) -> None:
    """Every field of a model is there and of its type, and none is that the SDK does not know."""
    assert set(value.model_fields_set) >= set(model.model_fields) - {"status_details"}
    assert set(value.model_extra or {}) <= {"tidegate"}
    # Answers are not validated by the SDK itself.
    model.model_validate(value.model_dump(), strict=True)


def test_five_thousand_requests_from_upload_to_download(stack, client, tmp_path):
    total = 5_000
    before = stack.stats()["completed"]
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(jsonl(line(number) for number in range(total)))
    with path.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
    known_only(FileObject, uploaded)
    assert (uploaded.filename, uploaded.bytes) == ("jobs.jsonl", path.stat().st_size)
    assert (uploaded.purpose, uploaded.status) == ("batch", "processed")
    assert client.files.content(uploaded.id).read() == path.read_bytes()
    assert client.files.wait_for_processing(uploaded.id) == uploaded

    metadata = {"run": "nightly", "team": "évals"}
    batch = client.batches.create(
        input_file_id=uploaded.id, endpoint=CHAT, completion_window="24h", metadata=metadata
    )
    known_only(Batch, batch)
    assert (batch.status, counts(batch)) == ("validating", (0, 0, 0))
    seen = []

    def over():
        seen.append(client.batches.retrieve(batch.id))
        return seen[-1].status == "completed"

    wait_until(over, "all answers")
    progress = [counts(it)[1] for it in seen]
    assert progress == sorted(progress), "what is done stays done"
    states = list(dict.fromkeys(it.status for it in seen))
    in_order = [it for it in ("validating", "in_progress", "finalizing", "completed") if it in states]
    assert states == in_order
    done = ended(client, batch, "completed")
    for it in seen:
        known_only(Batch, it)
    assert (counts(done), done.metadata) == ((total, total, 0), metadata)
    assert (done.id, done.input_file_id, done.endpoint) == (batch.id, uploaded.id, CHAT)
    assert (done.error_file_id, done.model, done.completion_window) == (None, MODEL, "24h")
    assert stack.stats()["completed"] == before + total, "each was sent once"

    answers = lines_of(client, done.output_file_id)
    assert answers.keys() == {f"job-{number}" for number in range(total)}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    texts, names = set(), set()
    for number in range(total):
        entry = answers[f"job-{number}"]
        assert (entry["error"], entry["response"]["status_code"]) == (None, 200)
        answer = entry["response"]["body"]
        assert answer["usage"]["completion_tokens"] == 1 + number % 50
        usage = {name: count + answer["usage"][name] for name, count in usage.items()}
        texts.add((number % 50, answer["choices"][0]["message"]["content"]))
        names.add(entry["response"]["request_id"])
    assert len(names) == total and "" not in names
    assert len(texts) > total * 0.9, "only the shortest answers are alike"
    told = done.usage
    assert (told.input_tokens, told.output_tokens) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert told.total_tokens == usage["total_tokens"]

    # The upstream's answer depends on the bytes of the request: it is the one to this very line.
    lines = path.read_bytes().splitlines()
    with httpx.Client(headers={"authorization": f"Bearer {KEY}-direct"}) as direct:
        for number in range(0, total, 97):
            request = json.dumps(json.loads(lines[number])["body"]).encode()
            assert request in lines[number]
            headers = {"content-type": "application/json"}
            sent = direct.post(stack.direct + CHAT, content=request, headers=headers).json()
            answer = answers[f"job-{number}"]["response"]["body"]
            assert answer["choices"] == sent["choices"]
            assert answer["usage"] == sent["usage"]

    output = client.files.retrieve(done.output_file_id)
    known_only(FileObject, output)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert stack.gateway.metric("tidegate_batch_requests_total", result="completed") >= total


def test_the_asynchronous_client_does_the_same(stack):
    async def run():
        async with openai.AsyncOpenAI(base_url=f"{stack.via}/v1", api_key=KEY) as client:
            content = jsonl(line(number) for number in range(100))
            uploaded = await client.files.create(file=("a.jsonl", content), purpose="batch")
            made = [
                client.batches.create(
                    input_file_id=uploaded.id, endpoint=CHAT, completion_window="24h"
                )
                for _ in range(3)
            ]
            batches = await asyncio.gather(*made)
            for batch in batches:
                while batch.status not in ENDS:
                    await asyncio.sleep(0.01)
                    batch = await client.batches.retrieve(batch.id)
                assert (batch.status, counts(batch)) == ("completed", (100, 100, 0))
                text = (await client.files.content(batch.output_file_id)).text
                found = {json.loads(it)["custom_id"] for it in text.splitlines()}
                assert found == {f"job-{number}" for number in range(100)}
            listed = [batch.id async for batch in client.batches.list(limit=2)]
            ids = [batch.id for batch in batches]
            assert sorted(listed[:3]) == sorted(ids), "the last ones come first"

    asyncio.run(run())


def test_lists_are_paged_through(start):
    own = start(config=ONCE)
    with openai.OpenAI(base_url=f"{own.via}/v1", api_key=KEY) as client:
        assert client.batches.list().data == [] and client.files.list().data == []
        made = [make(client, jsonl([line(number)])) for number in range(45)]
        ids = [batch.id for batch in reversed(made)]
        first = client.batches.list()
        assert ([it.id for it in first], len(first.data)) == (ids, 20), "twenty on a page"
        assert first.has_more and first.has_next_page()
        assert [it.id for it in client.batches.list(limit=7)] == ids
        assert [it.id for it in client.batches.list(limit=100).data] == ids
        page = client.batches.list(limit=5, after=ids[9])
        assert [it.id for it in page.data] == ids[10:15]
        last = client.batches.list(after=ids[-1])
        assert (last.data, last.has_more) == ([], False)

        files = [batch.input_file_id for batch in reversed(made)]
        for batch in made:
            done = ended(client, batch, "completed")
            assert client.files.retrieve(done.output_file_id).purpose == "batch_output"
        inputs = client.files.list(purpose="batch")
        assert [it.id for it in inputs] == files
        assert [it.id for it in client.files.list(purpose="batch", limit=4)] == files
        ascending = client.files.list(purpose="batch", order="asc", after=files[3], limit=2)
        assert [it.id for it in ascending.data] == files[2::-1][:2]
        assert len(list(client.files.list())) == 90, "and as many results"
        assert len(list(client.files.list(purpose="batch_output"))) == 45
        for page in (inputs, client.files.list(limit=1)):
            for entry in page.data:
                known_only(FileObject, entry)


def test_a_file_can_be_deleted_once_nothing_needs_it(few):
    own, client = few(1)
    batch = make(client, jsonl([line(0), line(1)]))
    with pytest.raises(openai.ConflictError) as caught:
        client.files.delete(batch.input_file_id)
    assert caught.value.code == "file_in_use"
    assert caught.value.response.headers["x-should-retry"] == "false"
    client.batches.cancel(batch.id)
    done = ended(client, batch, "cancelled")
    for file in filter(None, (done.input_file_id, done.output_file_id, done.error_file_id)):
        gone = client.files.delete(file)
        assert gone == FileDeleted(id=file, object="file", deleted=True)
        for call in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                call(file)
    assert client.files.list().data == []
    assert client.batches.retrieve(batch.id) == done, "the batch itself is still known"
    assert own.gateway.metric("tidegate_batch_stored_bytes") == 0


def test_a_cancelled_batch_has_what_was_answered(few):
    own, client = few(5)
    batch = make(client, jsonl(line(number) for number in range(20)))
    wait_until(lambda: counts(client.batches.retrieve(batch.id))[1] == 5, "five answers")
    running = client.batches.retrieve(batch.id)
    assert (running.status, running.output_file_id) == ("in_progress", None)
    assert running.to_dict()["tidegate"]["limited_by"] == "requests/hour"
    cancelling = client.batches.cancel(batch.id)
    assert cancelling.status == "cancelling"
    assert cancelling.cancelling_at and cancelling.cancelled_at is None
    done = ended(client, batch, "cancelled")
    assert counts(done) == (20, 5, 15)
    answers = lines_of(client, done.output_file_id)
    assert len(answers) == 5
    assert all(it["response"]["status_code"] == 200 for it in answers.values())
    errors = lines_of(client, done.error_file_id)
    assert answers.keys() | errors.keys() == {f"job-{number}" for number in range(20)}
    for entry in errors.values():
        assert (entry["response"], entry["error"]["code"]) == (None, "batch_cancelled")
    with pytest.raises(openai.ConflictError) as caught:
        client.batches.cancel(batch.id)
    assert (caught.value.code, caught.value.param) == ("batch_ended", "id")
    assert own.stats()["started"] == 5, "the others were not sent"


def test_an_expired_batch_has_what_was_answered(few):
    own, client = few(3)
    batch = make(client, jsonl(line(number) for number in range(8)), window="2s")
    assert batch.expires_at - batch.created_at in (2, 3)
    done = ended(client, batch, "expired")
    assert done.expired_at >= done.expires_at
    assert counts(done) == (8, 3, 5)
    assert len(lines_of(client, done.output_file_id)) == 3
    errors = lines_of(client, done.error_file_id)
    assert len(errors) == 5
    # These words are in OpenAI's documentation.
    message = "This request could not be executed before the completion window expired."
    for entry in errors.values():
        assert entry["response"] is None
        assert entry["error"] == {"code": "batch_expired", "message": message}
    assert own.stats()["started"] == 3


def test_a_batch_with_bad_lines_fails_and_names_them(stack, client):
    started = stack.stats()["started"]
    bad = {
        1: ('{"custom_id": "cut', "invalid_json_line", None),
        3: (line(0), "duplicate_custom_id", "custom_id"),
        5: (line(5, url="/v1/embeddings"), "url_mismatch", "url"),
        7: (line(7, body={**body(7), "stream": True}), "invalid_request", "body.stream"),
        9: (line(9, body=None), "missing_required_parameter", "body"),
    }
    texts = [bad[number][0] if number in bad else line(number) for number in range(10)]
    done = ended(client, make(client, jsonl(texts)), "failed")
    assert done.errors.object == "list"
    found = [(it.line, it.code, it.param) for it in done.errors.data]
    assert found == [(number + 1, code, param) for number, (_, code, param) in bad.items()]
    for problem in done.errors.data:
        known_only(BatchError, problem)
        assert problem.message and PLANTED not in problem.message
    assert (done.output_file_id, done.error_file_id) == (None, None)
    assert counts(done)[1:] == (0, 0)
    assert stack.stats()["started"] == started, "none of its lines was sent"
    many = ended(client, make(client, b"{\n" * 300), "failed")
    assert [it.line for it in many.errors.data] == list(range(1, 301))
    listed = client.batches.list(limit=1).data[0]
    assert (listed.id, listed.errors.data) == (many.id, many.errors.data[:100]), "a page is bounded"
    empty = ended(client, make(client, b"\n"), "failed")
    assert [it.code for it in empty.errors.data] == ["empty_file"]


def test_lines_that_the_upstream_refuses_are_in_the_error_file(client):
    """They are well-formed, so the batch itself is completed."""
    texts = [
        line(number) if number % 2 else line(number, body={**body(number), "model": "no-such-model"})
        for number in range(40)
    ]
    done = ended(client, make(client, jsonl(texts)), "completed")
    assert counts(done) == (40, 20, 20)
    answers = lines_of(client, done.output_file_id)
    errors = lines_of(client, done.error_file_id)
    assert answers.keys() == {f"job-{number}" for number in range(1, 40, 2)}
    assert errors.keys() == {f"job-{number}" for number in range(0, 40, 2)}
    for entry in errors.values():
        assert (entry["error"], entry["response"]["status_code"]) == (None, 404)
        assert "no-such-model" in json.dumps(entry["response"]["body"])
    usage = [it["response"]["body"]["usage"]["total_tokens"] for it in answers.values()]
    assert done.usage.total_tokens == sum(usage), "failures cost nothing"


def test_what_cannot_be_is_an_exception_of_the_sdk(client):
    file = client.files.create(file=("x.jsonl", jsonl([line(0)])), purpose="batch")

    def create(**changes):
        fields = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **changes}
        return client.batches.create(**fields)

    for fields, param in (
        ({"input_file_id": "file-of-nobody"}, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "forever"}, "completion_window"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {str(it): "v" for it in range(17)}}, "metadata"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 5}},
            "output_expires_after",
        ),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            create(**fields)
        error = caught.value
        assert (error.status_code, error.code, error.param) == (400, "invalid_value", param)
        assert error.type == "invalid_request_error" and error.request_id
    for call in (
        lambda: client.batches.retrieve("batch_none"),
        lambda: client.batches.cancel("batch_none"),
        lambda: client.files.retrieve("file-none"),
        lambda: client.files.content("file-none"),
        lambda: client.files.delete("file-none"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert (caught.value.code, caught.value.param) == ("not_found", "id")
    for purpose in ("fine-tune", "assistants"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.files.create(file=("x.jsonl", b"{}"), purpose=purpose)
        assert caught.value.param == "purpose"
    for lists in (client.batches.list, client.files.list):
        with pytest.raises(openai.BadRequestError) as caught:
            lists(after=file.id[::-1])
        assert caught.value.param == "after", "rather than a list that seems to end"
    for limit in (0, 101):
        with pytest.raises(openai.BadRequestError) as caught:
            client.batches.list(limit=limit)
        assert caught.value.param == "limit"


def test_files_and_results_are_kept_for_as_long_as_is_asked(client):
    day = {"anchor": "created_at", "seconds": 86_400}
    content = jsonl([line(0)])
    file = client.files.create(file=("x.jsonl", content), purpose="batch", expires_after=day)
    assert file.expires_at - file.created_at == 86_400
    made = client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", output_expires_after=day
    )
    output = client.files.retrieve(ended(client, made, "completed").output_file_id)
    assert output.expires_at - output.created_at == 86_400
    usual = client.files.create(file=("x.jsonl", content), purpose="batch")
    assert usual.expires_at - usual.created_at == 30 * 86_400, "as with OpenAI"


def test_raw_and_streaming_responses(client, tmp_path):
    raw = client.files.with_raw_response.create(
        file=("in.jsonl", jsonl(line(number) for number in range(50))), purpose="batch"
    )
    assert (raw.status_code, raw.retries_taken) == (200, 0)
    assert raw.headers["x-request-id"]
    file = raw.parse()
    made = client.batches.with_raw_response.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h"
    )
    done = ended(client, made.parse(), "completed")
    path = tmp_path / "out.jsonl"
    with client.files.with_streaming_response.content(done.output_file_id) as content:
        assert "attachment" in content.headers["content-disposition"]
        content.stream_to_file(path)
    assert path.stat().st_size == client.files.retrieve(done.output_file_id).bytes
    assert len(path.read_text().splitlines()) == 50


def test_a_legacy_completion_can_be_in_a_batch(client):
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 5}
    entry = {"custom_id": "one", "method": "POST", "url": "/v1/completions", "body": request}
    file = client.files.create(file=("x.jsonl", json.dumps(entry).encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
    )
    done = ended(client, batch, "completed")
    answer = lines_of(client, done.output_file_id)["one"]["response"]["body"]
    assert (answer["object"], answer["usage"]["completion_tokens"]) == ("text_completion", 5)


def test_another_key_sees_nothing(start):
    own = start(
        simulate=(f"--keys={ACCOUNT_KEY}=the-account",),
        config={**ONCE, "upstream": {"api_key": "env:ACCOUNT_KEY"}, "keys": virtual_keys()},
        env={"ACCOUNT_KEY": ACCOUNT_KEY},
    )
    keys = (*TEAM_KEYS.values(), f"tg-{PLANTED}-c")
    owner, other, wrong = (
        openai.OpenAI(base_url=f"{own.via}/v1", api_key=key, max_retries=0) for key in keys
    )
    with owner, other, wrong:
        batch = make(owner, jsonl(line(number) for number in range(10)))
        done = ended(owner, batch, "completed")
        assert counts(done) == (10, 10, 0), "the account's key paid for it"
        calls = (
            lambda client: client.batches.retrieve(done.id),
            lambda client: client.batches.cancel(done.id),
            lambda client: client.files.retrieve(done.input_file_id),
            lambda client: client.files.content(done.output_file_id),
            lambda client: client.files.delete(done.output_file_id),
        )
        for call in calls:
            with pytest.raises(openai.NotFoundError):
                call(other)
            with pytest.raises(openai.AuthenticationError):
                call(wrong)
        for lists in (lambda it: it.batches.list(), lambda it: it.files.list()):
            assert lists(other).data == [] and len(lists(owner).data) > 0
            with pytest.raises(openai.AuthenticationError):
                lists(wrong)
        with pytest.raises(openai.BadRequestError):
            other.batches.create(
                input_file_id=done.input_file_id, endpoint=CHAT, completion_window="24h"
            )
        assert own.gateway.metric("tidegate_batches_total", status="completed") == 1
    assert [pool["account"] for pool in own.pools()] == ["the-account"]
