"""A checkpoint's text files, in the layouts that are out there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from scheduler_svc.text.chat import CardError, ChatTemplate
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.errors import InvalidRequest
from tests.scheduler_svc.text.checkpoints import MAX_CONTEXT, tokenizer_of, write_checkpoint

MESSAGES = [
    {"role": "system", "content": "Be <kind> & brief."},
    {"role": "user", "content": "Once upon é?"},
]


def edit(path: Path, **values: Any) -> None:
    path.write_text(
        json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values})
    )


def test_a_card_says_what_the_files_say(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny-dog")
    card = ModelCard.load(folder)
    backend = tokenizer_of("byte_level")
    assert (card.name, card.max_context) == ("tiny-dog", MAX_CONTEXT)
    assert card.vocab_size == backend.get_vocab_size()
    assert card.eos_token_ids == {backend.token_to_id("</s>")}
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert card.tokenizer_fingerprint == digest
    assert ModelCard.load(folder, name="dog").name == "dog"


def test_the_generation_config_names_the_end_tokens(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    edit(folder / "generation_config.json", eos_token_id=[3, 4])
    assert ModelCard.load(folder).eos_token_ids == {3, 4}
    edit(folder / "generation_config.json", eos_token_id=[-1, 3, 5000, 2**32])
    assert ModelCard.load(folder).eos_token_ids == {3}
    edit(folder / "generation_config.json", eos_token_id=-1)
    assert ModelCard.load(folder).eos_token_ids == frozenset()


def test_where_no_config_names_an_end_token_the_tokenizers_ends_an_output(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    edit(folder / "config.json", eos_token_id=7)
    edit(folder / "generation_config.json", eos_token_id=None)
    assert ModelCard.load(folder).eos_token_ids == {tokenizer_of("byte_level").token_to_id("</s>")}


def test_a_text_model_inside_another_config(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    config = {"text_config": {"max_position_embeddings": 99, "vocab_size": 400}}
    (folder / "config.json").write_text(json.dumps(config))
    card = ModelCard.load(folder)
    assert (card.max_context, card.vocab_size) == (99, 400)


def test_without_a_tokenizer_ids_remain(tmp_path: Path) -> None:
    card = ModelCard.load(write_checkpoint(tmp_path, kind=None))
    assert card.tokenizer is None
    assert card.chat_template is None


@pytest.mark.parametrize("kind", ["byte_level", "llama_bpe"])
@pytest.mark.parametrize(
    "settings", [{}, {"add_bos_token": False}, {"add_bos_token": True, "add_eos_token": True}]
)
def test_it_encodes_as_transformers_does(
    tmp_path: Path, kind: str, settings: dict[str, bool]
) -> None:
    folder = write_checkpoint(tmp_path, kind)
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", **settings)
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    ours = ModelCard.load(folder).tokenizer
    assert ours is not None
    for text in ("Once upon a time", " é 中 🙂</s>x", ""):
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("layout", ["tokenizer_config", "jinja file", "named list"])
def test_chats_are_rendered_as_transformers_does(tmp_path: Path, layout: str) -> None:
    folder = write_checkpoint(tmp_path)
    source = (
        "{{ bos_token }}{% for m in messages %}\n"
        "  {% if loop.first and m['role'] == 'system' %}[{{ m['content'] | tojson }}]\n"
        "  {% continue %}{% endif %}\n"
        "{% generation %}{{ m.role | upper }}: {{ m.content.strip() }}{% endgeneration %}\n"
        "{%- endfor %}{% if add_generation_prompt and not tools %}{{ eos_token }}{% endif %}"
    )
    value: Any = source
    if layout == "named list":
        value = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": source}]
    edit(folder / "tokenizer_config.json", chat_template=value)
    if layout == "jinja file":
        edit(folder / "tokenizer_config.json", chat_template="old")
        (folder / "chat_template.jinja").write_text(source)
    theirs = AutoTokenizer.from_pretrained(folder)
    template = ModelCard.load(folder).chat_template
    assert template is not None
    expected = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert template.render(MESSAGES) == expected
    assert "<kind> & brief" in expected


def test_a_template_that_refuses_or_fails_is_the_requests_fault() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(InvalidRequest, match=r"^messages: .*roles must alternate"):
        template.render(MESSAGES)
    for source in ("{{ messages[9].content.x }}", "{{ 1 / 0 }}", "{{ ''.__class__.__mro__ }}"):
        with pytest.raises(InvalidRequest, match=r"^messages: ") as caught:
            ChatTemplate(source, {}).render(MESSAGES)
        assert "Once upon" not in str(caught.value)


def test_templates_know_the_date_and_cannot_change_what_they_are_given() -> None:
    year = ChatTemplate("{{ strftime_now('%Y') }}", {}).render(MESSAGES)
    assert year.isdigit()
    with pytest.raises(InvalidRequest):
        ChatTemplate("{{ messages.append(1) }}", {}).render(MESSAGES)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: "),
        (lambda f: (f / "config.json").write_text("[]"), "is not a JSON object"),
        (lambda f: edit(f / "config.json", vocab_size=None), "vocab_size is None"),
        (lambda f: edit(f / "config.json", eos_token_id=[2, None]), "eos_token_id is"),
        (lambda f: edit(f / "generation_config.json", eos_token_id=[2, None]), "has None in it"),
        (
            lambda f: edit(f / "generation_config.json", eos_token_id=[*range(113)]),
            "113 tokens end a text, more than 112",
        ),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json: "),
        (
            lambda f: edit(f / "config.json", model_type="llama", eos_token_id=[2, None]),
            r"config.json: .*eos_token_id",
        ),
    ],
)
def test_a_damaged_checkpoint_is_named_in_one_line(
    tmp_path: Path, damage: Any, message: str
) -> None:
    folder = write_checkpoint(tmp_path)
    damage(folder)
    with pytest.raises(CardError, match=message) as caught:
        ModelCard.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% if %}", "line 1: Expected an expression"),
        ("a\n{{ messages | no_filter }}", "line 2: No filter"),
        (7, "chat template: "),
        ([{"name": "tool_use", "template": "x"}], "no chat template"),
    ],
)
def test_a_template_that_is_none_keeps_only_chats_from_being_served(
    tmp_path: Path, template: Any, problem: str
) -> None:
    folder = write_checkpoint(tmp_path)
    edit(folder / "tokenizer_config.json", chat_template=template)
    card = ModelCard.load(folder)
    assert card.chat_template is None
    assert problem in card.chat_problem
    assert card.tokenizer is not None
    assert card.tokenizer.encode("Once upon") == AutoTokenizer.from_pretrained(folder).encode(
        "Once upon"
    )


@pytest.mark.parametrize("source", ["/no/such/place", "./nowhere", "nowhere", "a/b/c"])
def test_a_directory_that_is_not_there(source: str) -> None:
    with pytest.raises(CardError, match="no such directory"):
        ModelCard.load(source)


def load_offline(home: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Load a card in a process of its own: the hub's client reads its settings once."""
    code = (
        "import sys\n"
        "from scheduler_svc.text.chat import CardError\n"
        "from scheduler_svc.text.model_card import ModelCard\n"
        "try:\n    card = ModelCard.load(sys.argv[1])\n"
        "except CardError as error:\n    sys.exit(f'refused: {error}')\n"
        "print(card.name, card.max_context, sorted({'torch', 'triton'} & set(sys.modules)))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, source],
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_of_the_hub_is_read_from_its_cache(tmp_path: Path) -> None:
    revision = "0" * 40
    repository = tmp_path / "hub" / "models--tiny--dog"
    write_checkpoint(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    loaded = load_offline(tmp_path, "tiny/dog")
    assert loaded.stdout == f"dog {MAX_CONTEXT} []\n", loaded.stderr
    missing = load_offline(tmp_path, "tiny/cat")
    assert missing.stderr.startswith("refused: tiny/cat: ")
    assert missing.stderr.count("\n") == 1
