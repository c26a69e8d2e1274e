"""Story-wide variables of the little stories: who and what, and how each is spelt.

No word stands for two variables, and heroes and friends have neither names nor animals in
common. Whoever tells a story can therefore see from a word alone which variable it fixes, and a
small model learns to look it up in little time.
"""

from dataclasses import dataclass

HEROINES = ("Mila", "Luna", "Rosie", "Nora", "Poppy", "Hazel", "Ivy", "Clara")
HEROES = ("Otto", "Felix", "Oscar", "Bruno", "Hugo", "Jasper", "Theo", "Finn")
GIRL_FRIENDS = ("Wilma", "Tilly", "Greta", "Olive", "Ruby", "Pearl")
BOY_FRIENDS = ("Barnaby", "Rufus", "Anton", "Victor", "Walter", "Sam")
GIRLS = HEROINES + GIRL_FRIENDS
ANIMALS = ("fox", "bear", "rabbit", "mouse", "owl", "hedgehog", "squirrel", "otter", "badger",
           "frog", "duck", "turtle")  # fmt: skip
KIN = ("deer", "mole", "cat", "puppy", "goat", "goose", "swan", "beaver")
THINGS = ("hat", "scarf", "kite", "drum", "lantern", "map", "basket", "whistle", "teapot",
          "button", "spoon", "key")  # fmt: skip
SKILLS = ("swim", "sing", "dance", "paint", "knit", "juggle", "skate", "write", "climb", "yodel")
WEATHERS = ("rain", "snow", "wind", "thunder", "fog", "hail")


@dataclass(frozen=True)
class Slot:
    """A gap in a sentence for a value of a story-wide variable, in some spelling.

    variable: the variable whose value is the same in the whole story
    spelling: text of this slot for every value that the variable may have
    """

    variable: str
    spelling: dict[str, str]


def _plain(variable: str, values: tuple[str, ...]) -> Slot:
    """Return a slot that spells every value as itself."""
    return Slot(variable, {value: value for value in values})


def _by_gender(variable: str, names: tuple[str, ...], she: str, he: str) -> Slot:
    """Return a slot whose word follows the gender of the name in `variable`."""
    return Slot(variable, {name: she if name in GIRLS else he for name in names})


def _with_article(variable: str, animals: tuple[str, ...]) -> Slot:
    """Return a slot that spells an animal with its indefinite article."""
    spelling = {animal: f"{'an' if animal[0] in 'aeiou' else 'a'} {animal}" for animal in animals}
    return Slot(variable, spelling)


_HERO = HEROINES + HEROES
_FRIEND = GIRL_FRIENDS + BOY_FRIENDS
SLOTS: dict[str, Slot] = {
    "hero": _plain("hero", _HERO),
    "friend": _plain("friend", _FRIEND),
    "animal": _plain("animal", ANIMALS),
    "kin": _plain("kin", KIN),
    "an_animal": _with_article("animal", ANIMALS),
    "a_kin": _with_article("kin", KIN),
    "thing": _plain("thing", THINGS),
    "skill": _plain("skill", SKILLS),
    "weather": _plain("weather", WEATHERS),
    "he": _by_gender("hero", _HERO, "she", "he"),
    "He": _by_gender("hero", _HERO, "She", "He"),
    "him": _by_gender("hero", _HERO, "her", "him"),
    "his": _by_gender("hero", _HERO, "her", "his"),
    "His": _by_gender("hero", _HERO, "Her", "His"),
    "friend_he": _by_gender("friend", _FRIEND, "she", "he"),
    "friend_him": _by_gender("friend", _FRIEND, "her", "him"),
    "friend_his": _by_gender("friend", _FRIEND, "her", "his"),
}
