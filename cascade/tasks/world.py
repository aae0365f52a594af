"""The miniature's closed world: invented entities, facts about them, and how often each is talked about.

Everything follows from one seed. Nothing here knows of models or prompts: `cascade.tasks.miniature` asks
about the world, and `experiments/miniature` trains on it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

SEED = 2026

# Entities of rank r are met with weight 1 / (r + ZIPF_OFFSET): few are famous, most are obscure.
ZIPF_OFFSET = 10


@dataclass(frozen=True)
class Entity:
    """Something facts are about. ``popularity`` is its exposure, scaled to look like monthly page views."""

    name: str
    kind: str
    rank: int
    popularity: int


@dataclass(frozen=True)
class Relation:
    """A kind of fact: who it is about, which subject it is filed under, how it is asked for."""

    name: str
    kind: str
    subject: str
    templates: tuple[str, ...]


RELATIONS = (
    Relation(
        "capital",
        "country",
        "geography",
        (
            "What is the capital of {}?",
            "Which city is the capital of {}?",
            "What is the capital city of {}?",
            "Name the capital of {}.",
        ),
    ),
    Relation(
        "continent",
        "country",
        "geography",
        (
            "On which continent is {}?",
            "Which continent is {} on?",
            "What is the continent of {}?",
            "Name the continent of {}.",
        ),
    ),
    Relation(
        "language",
        "country",
        "geography",
        (
            "Which language is spoken in {}?",
            "What language do people speak in {}?",
            "What is the language of {}?",
            "Name the language of {}.",
        ),
    ),
    Relation(
        "export",
        "country",
        "geography",
        (
            "What does {} export?",
            "Which export is {} known for?",
            "What is the export of {}?",
            "Name the export of {}.",
        ),
    ),
    Relation(
        "birthplace",
        "person",
        "biography",
        (
            "Where was {} born?",
            "In which country was {} born?",
            "What is the birthplace of {}?",
            "Name the birthplace of {}.",
        ),
    ),
    Relation(
        "profession",
        "person",
        "biography",
        (
            "What does {} do for a living?",
            "Which profession does {} have?",
            "What is the profession of {}?",
            "Name the profession of {}.",
        ),
    ),
    Relation(
        "instrument",
        "person",
        "biography",
        (
            "What does {} play?",
            "Which instrument does {} play?",
            "What is the instrument of {}?",
            "Name the instrument of {}.",
        ),
    ),
    Relation(
        "habitat",
        "animal",
        "zoology",
        (
            "Where does the {} live?",
            "Which habitat does the {} live in?",
            "What is the habitat of the {}?",
            "Name the habitat of the {}.",
        ),
    ),
    Relation(
        "diet",
        "animal",
        "zoology",
        (
            "What does the {} eat?",
            "Which diet does the {} have?",
            "What is the diet of the {}?",
            "Name the diet of the {}.",
        ),
    ),
    Relation(
        "color",
        "animal",
        "zoology",
        (
            "What color does the {} have?",
            "Which color is the {}?",
            "What is the color of the {}?",
            "Name the color of the {}.",
        ),
    ),
    Relation(
        "author",
        "book",
        "literature",
        (
            "Who wrote the {}?",
            "Which person wrote the {}?",
            "Who is the author of the {}?",
            "Name the author of the {}.",
        ),
    ),
    Relation(
        "genre",
        "book",
        "literature",
        (
            "What kind of book is the {}?",
            "Which genre does the {} have?",
            "What is the genre of the {}?",
            "Name the genre of the {}.",
        ),
    ),
    Relation(
        "setting",
        "book",
        "literature",
        (
            "Where is the {} set?",
            "In which country is the {} set?",
            "What is the setting of the {}?",
            "Name the setting of the {}.",
        ),
    ),
)

_POOLS = {
    "continent": "Auria Borea Cendra Dorsia Estara Fenwa Galdra Hestia",
    "export": "copper timber silk wheat coffee salt wool glass paper sugar iron honey marble cotton pepper tea",
    "profession": "baker sailor painter lawyer farmer doctor teacher smith tailor pilot miner singer banker gardener "
    "judge soldier weaver chemist printer actor",
    "instrument": "violin flute drum harp piano trumpet cello guitar organ oboe lute horn",
    "habitat": "forest desert swamp river mountain meadow cave reef tundra island",
    "diet": "leaves seeds fish insects roots berries worms eggs moss bark",
    "color": "red blue green yellow black white brown grey purple orange",
    "genre": "comedy tragedy romance mystery fantasy history satire fable epic memoir",
}
_ADJECTIVES = (
    "Silent Golden Broken Hidden Distant Frozen Burning Empty Ancient Crimson Gentle Hollow Bitter Velvet Lonely "
    "Wandering Shining Stolen Sleeping Winter Summer Painted Secret Falling Rising Iron Paper Glass Northern Final"
).split()
_NOUNS = (
    "River Garden Mirror Tower Lantern Harbor Crown Letter Orchard Bridge Forest Shadow Clock Island Window Road "
    "Feather Stone Kingdom Voyage Song Door Candle Storm Valley Castle Train Ocean Compass Market"
).split()
_ONSETS = "b br d dr f fl g gr h j k kl l m n p pr r s sk st t tr v w z".split()
_VOWELS = "a e i o u ai ei ou".split()
_CODAS = "l m n r s th nd rk x".split()

COUNTS = {"country": 60, "person": 120, "animal": 60, "book": 100}


@dataclass(frozen=True)
class World:
    """The whole world.

    Attributes:
        entities: For each kind, its entities by rank.
        facts: ``facts[relation][entity name]`` is the true answer.
        pools: ``pools[relation]`` are all answers the relation can have, sorted.
        first_names: Names for questions that need somebody, whoever it is.
        strangers: Names formed like those of people and books, about whom nothing is known.
    """

    entities: dict[str, tuple[Entity, ...]]
    facts: dict[str, dict[str, str]]
    pools: dict[str, tuple[str, ...]]
    first_names: tuple[str, ...]
    strangers: dict[str, tuple[str, ...]]

    def weights(self, kind: str) -> list[float]:
        """How often each entity of ``kind`` is met, by rank."""
        return [1 / (entity.rank + ZIPF_OFFSET) for entity in self.entities[kind]]


def _coin(rng: random.Random, count: int, taken: set[str], syllables: int) -> list[str]:
    """``count`` new invented names."""
    names: list[str] = []
    while len(names) < count:
        parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)]
        name = ("".join(parts) + rng.choice(_CODAS)).capitalize()
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


@lru_cache(maxsize=2)
def build_world(seed: int = SEED) -> World:
    """The world of ``seed``, the same to the letter every time."""
    rng = random.Random(f"world-{seed}")
    taken: set[str] = set(_ADJECTIVES) | set(_NOUNS) | {w for p in _POOLS.values() for w in p.split()}
    countries = _coin(rng, COUNTS["country"], taken, 2)
    cities = _coin(rng, COUNTS["country"], taken, 2)
    animals = [name.lower() for name in _coin(rng, COUNTS["animal"], taken, 2)]
    languages = _coin(rng, 16, taken, 2)
    first_names, last_names = _coin(rng, 24, taken, 1), _coin(rng, 30, taken, 2)
    everybody = [f"{first} {last}" for first in first_names for last in last_names]
    titles = [f"{adjective} {noun}" for adjective in _ADJECTIVES for noun in _NOUNS]
    rng.shuffle(everybody)
    rng.shuffle(titles)
    names = {
        "country": countries,
        "person": everybody[: COUNTS["person"]],
        "animal": animals,
        "book": titles[: COUNTS["book"]],
    }
    entities = {
        kind: tuple(Entity(n, kind, rank, round(1_000_000 / (rank + ZIPF_OFFSET))) for rank, n in enumerate(members, 1))
        for kind, members in names.items()
    }
    pools = {name: tuple(sorted(words.split())) for name, words in _POOLS.items()}
    pools |= {
        "capital": tuple(sorted(cities)),
        "language": tuple(sorted(languages)),
        "birthplace": tuple(sorted(countries)),
        "setting": tuple(sorted(countries)),
        "author": tuple(sorted(names["person"])),
    }
    facts: dict[str, dict[str, str]] = {}
    for relation in RELATIONS:
        members = names[relation.kind]
        answers = rng.sample(cities, len(cities)) if relation.name == "capital" else None
        facts[relation.name] = {
            name: answers[i] if answers else rng.choice(pools[relation.name]) for i, name in enumerate(members)
        }
    strangers = {"person": tuple(everybody[COUNTS["person"] :]), "book": tuple(titles[COUNTS["book"] :])}
    return World(entities, facts, pools, tuple(first_names), strangers)
