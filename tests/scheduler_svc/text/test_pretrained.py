"""Tokens that only one of a checkpoint's files knows: the same as ``AutoTokenizer`` has them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from scheduler_svc.text.model_card import ModelCard
from scheduler_svc.text.pretrained import CardError
from tests.published import LAYOUTS, publish
from tests.scheduler_svc.text.checkpoints import KINDS, TEXTS, tokenizer_of, write_checkpoint

ROOT = Path(__file__).parents[3]
MESSAGES = [
    {"role": "user", "content": "Once <image> upon"},
    {"role": "assistant", "content": " a time. "},
    {"role": "user", "content": "é <tool> 🙂"},
]
NEW = ("<tool>", "<image>", "<extra>", "<mask>", "<fin>", "word")
SPOKEN = (
    "hi <tool> x",
    " <tool>  <image><extra> end<fin>",
    "swords word sword <mask>\n<fin> ",
    "a </s><s> <pad>b <|user|>c <unk>",
    "<TOOL> dog .",
    *TEXTS,
)


def token(content: str, **flags: Any) -> dict[str, Any]:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": content, **plain, "special": False, **flags}


def edit(path: Path, **values: Any) -> None:
    path.write_text(
        json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values})
    )


def config(**values: Any) -> Callable[[Path, int], None]:
    return lambda folder, _size: edit(folder / "tokenizer_config.json", **values)


def decoder(*tokens: dict[str, Any]) -> Callable[[Path, int], None]:
    """Put the tokens behind the vocabulary, as tokenizer_config.json says it."""

    def write(folder: Path, size: int) -> None:
        entries = {str(size + i): entry for i, entry in enumerate(tokens)}
        edit(folder / "tokenizer_config.json", added_tokens_decoder=entries)

    return write


def map_only(**values: Any) -> Callable[[Path, int], None]:
    return lambda folder, _size: edit(folder / "special_tokens_map.json", **values)


EDITS: dict[str, Callable[[Path, int], None]] = {
    "decoder": decoder(token("<tool>"), token("<fin>", special=True)),
    "decoder flags": decoder(
        token("<tool>", lstrip=True, rstrip=True),
        token("word", single_word=True, normalized=True),
        token("<image>", special=True, lstrip=True),
    ),
    "decoder of what is there": decoder(token("dog", special=True)),
    "added_tokens.json": lambda folder, size: edit(
        folder / "added_tokens.json", **{"<tool>": size, "<image>": size + 1}
    ),
    "map": map_only(
        mask_token="<mask>",
        eos_token={"content": "<fin>", "lstrip": False, "normalized": False, "rstrip": False},
        additional_special_tokens=["<tool>", "<extra>"],
    ),
    "additional": config(additional_special_tokens=["<tool>", "<image>"]),
    "pad": config(pad_token="<tool>"),
    "eos": config(eos_token="<fin>"),
    "extra object": config(extra_special_tokens={"image_token": "<image>", "x_token": "<extra>"}),
    "extra list": config(extra_special_tokens=["<extra>", "word"]),
    "image": config(image_token="<image>"),
    "split": config(split_special_tokens=True),
    "clean up": config(clean_up_tokenization_spaces=True),
    "clean up all": config(
        clean_up_tokenization_spaces=True,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True,
    ),
    "bos": config(add_bos_token=True, add_eos_token=True),
    "no bos": config(add_bos_token=False),
    "class": config(tokenizer_class="LlamaTokenizer", legacy=False),
    "class of Qwen": config(tokenizer_class="Qwen2Tokenizer"),
    "no class there": config(tokenizer_class="NobodysTokenizer"),
    "llama": lambda folder, _size: edit(folder / "config.json", model_type="llama"),
    "qwen2": lambda folder, _size: edit(folder / "config.json", model_type="qwen2"),
    "prefix": config(add_prefix_space=True),
}


def assert_same(folder: Path) -> None:
    """Compare tokens, texts and chats with the oracle; what it refuses is refused at start."""
    try:
        theirs = AutoTokenizer.from_pretrained(folder)
    except Exception:
        with pytest.raises(CardError):
            ModelCard.load(folder)
        return
    card = ModelCard.load(folder)
    ours = card.tokenizer
    assert ours is not None
    for text in (*SPOKEN, *NEW):
        for add_special_tokens in (True, False):
            ids = ours.encode(text, add_special_tokens)
            assert ids == theirs.encode(text, add_special_tokens=add_special_tokens), text
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    every_id = list(range(len(theirs) + 2))
    assert ours.decode(every_id) == theirs.decode(every_id, skip_special_tokens=True)
    if card.chat_template is not None:
        text = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
        assert card.chat_template.render(MESSAGES) == text
        ids = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
        assert ours.encode(text, add_special_tokens=False) == ids


TEMPLATE = (
    "{{ bos_token }}[{{ image_token }}|{{ x_token }}|{{ pad_token }}|{{ eos_token }}]"
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)


def apply(folder: Path, kind: str, names: list[str]) -> Path:
    write_checkpoint(folder, kind)
    edit(folder / "tokenizer_config.json", chat_template=TEMPLATE)
    for name in names:
        EDITS[name](folder, tokenizer_of(kind).get_vocab_size())
    return folder


@pytest.mark.parametrize("name", EDITS)
def test_each_file_counts_as_with_transformers(tmp_path: Path, name: str) -> None:
    for kind in ("byte_level", "llama_bpe"):
        assert_same(apply(tmp_path / kind, kind, [name]))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    names=st.lists(st.sampled_from(sorted(EDITS)), min_size=2, max_size=5, unique=True),
)
def test_any_of_them_together(
    tmp_path_factory: pytest.TempPathFactory, kind: str, names: list[str]
) -> None:
    assert_same(apply(tmp_path_factory.mktemp("card"), kind, names))


def test_a_token_that_only_the_config_knows_is_one_token(tmp_path: Path) -> None:
    folder = apply(tmp_path, "byte_level", ["decoder"])
    tokenizer = ModelCard.load(folder).tokenizer
    assert tokenizer is not None
    size = tokenizer_of("byte_level").get_vocab_size()
    assert size in tokenizer.encode("hi <tool> x")
    assert tokenizer.decode(tokenizer.encode("hi <tool><fin>")) == "hi <tool>"


@pytest.mark.parametrize(
    ("layout", "kept"),
    [
        ("Qwen2-0.5B", ["vocab.json", "merges.txt"]),
        ("SmolLM2-135M", ["vocab.json", "merges.txt"]),
        ("Llama-2-7b-hf", ["tokenizer.model"]),
        ("Mistral-7B-v0.1", ["tokenizer.model"]),
    ],
)
def test_without_tokenizer_json_the_vocabulary_is_read(
    tmp_path: Path, layout: str, kept: list[str]
) -> None:
    folder = publish(tmp_path, layout, weights=False)
    (folder / "tokenizer.json").unlink()
    for name in {"vocab.json", "merges.txt", "tokenizer.model"} - set(kept):
        (folder / name).unlink(missing_ok=True)
    assert_same(folder)
    assert ModelCard.load(folder).tokenizer_fingerprint


@pytest.mark.parametrize(
    ("layout", "kept", "message"),
    [
        ("Qwen2-0.5B", "vocab.json", "vocab.json: "),
        ("Qwen2-0.5B", "merges.txt", "merges.txt: "),
        ("SmolLM2-135M", "merges.txt", "merges.txt: "),
    ],
)
def test_half_a_vocabulary_is_refused_at_start(
    tmp_path: Path, layout: str, kept: str, message: str
) -> None:
    folder = publish(tmp_path, layout, weights=False)
    for name in {"tokenizer.json", "vocab.json", "merges.txt"} - {kept}:
        (folder / name).unlink()
    with pytest.raises(CardError, match=message) as caught:
        ModelCard.load(folder)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_that_the_models_class_does_not_read_is_refused(tmp_path: Path) -> None:
    """transformers begins with three tokens then, and every text is unknown to it."""
    folder = publish(tmp_path, "Llama-2-7b-hf", weights=False)
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / name).unlink()
    (folder / "vocab.json").write_text('{"a": 0, "b": 1}')
    with pytest.raises(CardError, match=r"vocab\.json gave a LlamaTokenizer no vocabulary"):
        ModelCard.load(folder)


def test_code_of_a_repositorys_own_is_not_run(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "own.py").write_text("raise SystemExit('run')")
    auto_map = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
    edit(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="OwnTokenizer")
    edit(folder / "config.json", model_type="own")
    with pytest.raises(CardError, match="contains custom code"):
        ModelCard.load(folder)


def test_torch_is_not_loaded(tmp_path: Path) -> None:
    """In a process of its own, as a scheduler is: neither to load a model nor to render a chat."""
    layouts = ("Llama-2-7b-chat-hf", "Qwen3-0.6B", "SmolLM2-135M-Instruct", "Llama-3.2-1B-Instruct")
    folders = [str(publish(tmp_path / layout, layout, weights=False)) for layout in layouts]
    code = (
        "import sys\n"
        "from scheduler_svc.text.model_card import ModelCard\n"
        "for folder in sys.argv[1:]:\n"
        "    card = ModelCard.load(folder)\n"
        "    card.chat_template.render([{'role': 'user', 'content': 'hi'}])\n"
        "print(sorted({'torch', 'triton', 'numba', 'safetensors'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_directories_are_read_as_transformers_reads_them(
    tmp_path: Path, layout: str
) -> None:
    folder = publish(tmp_path / layout, layout, weights=False)
    assert_same(folder)
