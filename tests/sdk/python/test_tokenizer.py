"""A model's own `tokenizer.json`: what `tidegate tokens` counts with it, the reference does too."""

import base64
import hashlib
import json
import random
import subprocess
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from harness import AMPLE, PATIENCE, binary, toml

ROOT = Path(__file__).resolve().parents[3]
END = "<|end|>"

# How published models cut text into pieces.
CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA = (
    rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|"
    rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
)
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+(?i:{CONTRACTIONS})?|"
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*(?i:{CONTRACTIONS})?|"
    rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    rf" ?[\p{{P}}\p{{S}}]+[\r\n]*|{SPACES}"
)


def split(*patterns: str):
    """Cuts at each pattern in turn, then spells the bytes."""
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*cuts, spell])


def texts() -> dict[str, str]:
    """The repository's prompts: the same five kinds as in the other tests, and odd ones."""
    random.seed(11)
    value = [
        {"id": random.randrange(10**6), "price": random.random(), "tags": ["tide", "quota"]}
        for _ in range(40)
    ]
    return {
        "english": (ROOT / "docs/LIMITS.md").read_text(),
        "code": (ROOT / "src/usage/weigh.rs").read_text(),
        "cjk": (ROOT / "tests/prompts/cjk.txt").read_text(),
        "json": json.dumps(value) + json.dumps(value, indent=2),
        "base64": base64.encodebytes(hashlib.shake_256(b"tide").digest(6_000)).decode(),
        "spaces": "  \t\n\n  x  \r\n   y\u00a0z \u3000 \n",
        "marks": f"DON'T I'll we'VE e\u0301 u\u0308ber 12345 \u0663\u0664 \U0001f30a\U0001f30a {END} {END}\n",
        "one letter": "a" * 5_000 + " " * 5_000 + "a",
        "a space": " ",
        "nothing": "",
    }


@pytest.fixture(scope="module")
def configured(tmp_path_factory) -> Path:
    """A configuration with one model for each way to cut, and their files beside it."""
    directory = tmp_path_factory.mktemp("tokenizers")
    byte_level = pre_tokenizers.ByteLevel
    sorts = {
        "gpt2": (byte_level(add_prefix_space=True), None, {"lstrip": True}),
        "llama": (split(LLAMA), None, {}),
        "qwen": (split(LLAMA.replace("{1,3}", "")), normalizers.NFC(), {}),
        "o200k": (split(O200K), None, {"rstrip": True}),
        "deepseek": (split(r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK), None, {}),
        "starcoder": (
            pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), byte_level(add_prefix_space=False)]
            ),
            None,
            {},
        ),
    }
    for name, (cut, normalizer, strips) in sorts.items():
        made = Tokenizer(models.BPE(ignore_merges=name == "llama"))
        made.pre_tokenizer = cut
        if normalizer:
            made.normalizer = normalizer
        # Without the whole alphabet, so that some bytes have no token.
        alphabet = [] if name == "starcoder" else byte_level.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=2_000, show_progress=False, initial_alphabet=alphabet, special_tokens=[END]
        )
        learned = texts()
        if name == "starcoder":
            del learned["cjk"]
        made.add_special_tokens([AddedToken(END, **strips)])
        made.train_from_iterator(learned.values(), trainer)
        made.save(str(directory / f"{name}.json"))
    (directory / "handmade.json").write_text((ROOT / "tests/tokenizers/tides.json").read_text())
    own = {
        path.stem: {"prompt_estimate": {"tokenizer": f"file:{path.name}"}}
        for path in directory.glob("*.json")
    }
    everyone = {
        "output_reservation": {"default": 100},
        "limits": [limit.toml() for limit in AMPLE],
    }
    config = {"upstream": {"base_url": "http://127.0.0.1:9"}, "models": {"*": everyone, **own}}
    path = directory / "tidegate.toml"
    path.write_text(toml(config))
    return path


def tokens(config: Path, model: str, text: str) -> int:
    """What the gateway counts."""
    command = [binary(), "tokens", "--config", str(config), "--model", model]
    # From elsewhere: the files are found beside the configuration.
    run = subprocess.run(
        command, input=text.encode(), capture_output=True, timeout=PATIENCE, env={}, cwd="/"
    )
    assert run.returncode == 0, run.stderr.decode()
    return int(run.stdout)


@pytest.mark.parametrize(
    "model", ["gpt2", "llama", "qwen", "o200k", "deepseek", "starcoder", "handmade"]
)
def test_every_text_has_as_many_tokens_as_the_reference_counts(configured, model):
    reference = Tokenizer.from_file(str(configured.with_name(f"{model}.json")))
    expected = {
        name: len(reference.encode(text, add_special_tokens=False).ids)
        for name, text in texts().items()
    }
    counted = {name: tokens(configured, model, text) for name, text in texts().items()}
    assert counted == expected


def test_the_gateway_runs_with_it_and_names_it(configured, start):
    path = configured.with_name("llama.json")
    everyone = {
        "output_reservation": {"default": 100},
        "limits": [limit.toml() for limit in AMPLE],
        "prompt_estimate": {"tokenizer": f"file:{path}"},
    }
    own = start(config={"models": {"*": everyone}})
    assert f"file:{path}" in own.gateway.page("/config")
