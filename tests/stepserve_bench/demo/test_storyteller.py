"""The grammar recognises its own stories and nothing near them; the committed model keeps to it."""

import json
import random
import re
from collections.abc import Iterator

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from stepserve_bench.demo.storyteller import MODEL_DIR
from stepserve_bench.demo.storyteller.check import Storyteller, draw_cases
from stepserve_bench.demo.storyteller.grammar import (
    draw_chat,
    draw_story,
    generate_chat,
    generate_story,
    join,
    parse,
    parse_chat,
)
from stepserve_bench.demo.storyteller.lexicon import HEROES, HEROINES, SLOTS
from stepserve_bench.demo.storyteller.templates import RULES
from stepserve_bench.demo.storyteller.tokenizer import (
    ASSISTANT_ID,
    BOS_ID,
    EOS_ID,
    PAD_ID,
    SETTLED_WEIGHT,
    encode_chat,
    encode_story,
)

STORIES = [generate_story(random.Random(seed)) for seed in range(60)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch on one thread, as the machine may be shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def hero_of(story: str) -> str:
    """Return the hero's name."""
    bindings = parse(story)
    assert bindings is not None
    return bindings["hero"]


def stranger_to(story: str) -> str:
    """Return a name, of the hero's gender, that is not in the story."""
    names = HEROINES if hero_of(story) in HEROINES else HEROES
    return next(name for name in names if name not in story)


def test_every_reference_of_a_rule_exists() -> None:
    used = {
        name
        for alternatives in RULES.values()
        for text in alternatives
        for name in re.findall(r"\{(\w+)\}", text)
    }
    assert used <= RULES.keys() | SLOTS.keys()
    assert not RULES.keys() & SLOTS.keys()
    assert RULES.keys() - used == {"Chat", "Drill"}


@pytest.mark.parametrize("story", STORIES)
def test_generated_story_parses(story: str) -> None:
    bindings = parse(story)
    assert bindings is not None
    assert bindings["hero"] in HEROINES + HEROES


def test_generated_chat_parses_only_with_its_own_request() -> None:
    rng = random.Random(5)
    for _ in range(50):
        request, reply = generate_chat(rng)
        assert parse_chat(request, reply) is not None
        other = f"Tell me a story about a crab named {stranger_to(reply)}."
        assert parse_chat(other, reply) is None


def test_reply_about_another_hero_does_not_parse() -> None:
    story = STORIES[0]
    named = f"Tell me a story about {hero_of(story)}."
    assert parse_chat(named, story) is not None
    assert parse_chat(named.replace(hero_of(story), stranger_to(story)), story) is None


@pytest.mark.parametrize("story", STORIES)
def test_mutated_story_does_not_parse(story: str) -> None:
    hero, stranger = hero_of(story), stranger_to(story)
    sentences = story.split(". ")
    before, _, after = story.rpartition(hero)
    mutants = [
        story.replace("The end.", ""),
        story + " " + story,
        ". ".join(sentences[1:]),
        story.replace(" a ", " an a ", 1),
        story.replace("e", "ee", 1),
        story[:-1],
        story.lower(),
    ]
    if hero in before:
        mutants.append(before + stranger + after)
    for mutant in mutants:
        assert parse(mutant) is None, mutant


@pytest.mark.parametrize(
    ("word", "wrong"),
    [
        ("she met", "he met"),
        ("Walter the deer", "Walter the cat"),
        ("Walter the deer", "Victor the deer"),
        ("Walter the deer", "Mila the deer"),
        ("a shy owl", "an shy owl"),
        ("shared", "shaerd"),
        ("talked for hours. ", "talked for hours."),
        ("They shared apple pie and talked for hours. ", ""),
    ],
)
def test_inconsistent_story_does_not_parse(word: str, wrong: str) -> None:
    story = (
        "Long ago, a shy owl named Mila lived in a hollow log. But Mila was lonely and wished for "
        "a friend. One autumn day, she met a deer named Walter by the river. They shared apple pie "
        "and talked for hours. And Mila never forgot how kind Walter the deer had been. The end."
    )
    assert parse(story) is not None
    assert word in story
    assert parse(story.replace(word, wrong)) is None


def test_story_without_its_plot_sentence_does_not_parse() -> None:
    start = "There once was a clever frog named Clara who lived in a hollow log."
    plot = "One day she found a red kite in the garden and took it home."
    assert parse(f"{start} {plot} The end.") is not None
    assert parse(f"{start} The end.") is None
    assert parse(f"{start} {plot.replace('she', 'he')} The end.") is None
    assert parse(f"{start} {plot.replace('kite', 'kiet')} The end.") is None


def test_model_folder_is_small_and_its_check_was_passed() -> None:
    size = sum(path.stat().st_size for path in MODEL_DIR.rglob("*") if path.is_file())
    assert size <= 8 * 10**6
    check = json.loads((MODEL_DIR / "check.json").read_text())
    assert check["count"] >= 200
    assert check["share"] >= 0.95


def test_both_tokenizer_loaders_agree() -> None:
    plain = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    auto = AutoTokenizer.from_pretrained(MODEL_DIR)
    assert (auto.bos_token_id, auto.eos_token_id, auto.pad_token_id) == (BOS_ID, EOS_ID, PAD_ID)
    text = STORIES[0] + " Grüße, 狐!"
    assert plain.encode(text).ids == auto(text)["input_ids"]
    assert plain.encode(text).ids[0] == BOS_ID
    assert plain.decode(plain.encode(text).ids) == text


def test_chat_template_writes_what_training_saw() -> None:
    plain = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    auto = AutoTokenizer.from_pretrained(MODEL_DIR)
    turn = draw_chat(random.Random(2))
    request, reply = map(join, turn)
    messages = [
        {"role": "system", "content": "You are a storyteller."},
        {"role": "user", "content": request},
        {"role": "assistant", "content": reply},
    ]
    row = encode_chat(plain, [turn], "You are a storyteller.")
    expected = [token for token, _ in row]
    assert auto.apply_chat_template(messages, return_dict=False) == expected
    opened = auto.apply_chat_template(messages[:2], add_generation_prompt=True, return_dict=False)
    assert opened == expected[: len(opened)]
    assert opened[-1] == ASSISTANT_ID


def test_every_value_of_a_variable_is_one_token() -> None:
    plain = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    values = {value for slot in SLOTS.values() for value in slot.spelling}
    assert [
        value for value in values if len(plain.encode(f" {value}", add_special_tokens=False)) != 1
    ] == []


def test_only_settled_words_weigh_more() -> None:
    plain = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    story = draw_story(random.Random(3))
    row = encode_story(plain, story)
    heavy = plain.decode([token for token, weight in row if weight == SETTLED_WEIGHT])
    assert heavy.split() == " ".join(piece.text for piece in story if piece.settled).split()
    assert [token for token, _ in row] == [*plain.encode(join(story)).ids, EOS_ID]


def test_no_word_stands_for_two_variables() -> None:
    owner: dict[str, str] = {}
    for slot in SLOTS.values():
        for value in slot.spelling:
            assert owner.setdefault(value, slot.variable) == slot.variable


def test_greedy_continuations_parse() -> None:
    storyteller = Storyteller(MODEL_DIR)
    outcomes = storyteller.continue_cases(draw_cases(8, seed=7))
    assert [outcome.text for outcome in outcomes if not outcome.parsed] == []
