"""Word lists that the task generators draw from."""

from __future__ import annotations

import random

NAMES = """Ada Ben Cora Dan Eva Finn Gina Hugo Ida Jack Kara Leo Mia Noah Olga Paul Rosa
Sam Tina Uma Vera Will Yara Zoe Anna Boris Clara David Emma Felix Greta Henry Irene
James Karen Lucas Maria Nina Oscar Petra Ravi Sara Tom Ursula Victor Wendy Xavier Alice
Bruno Diana Eric Fatima George Helen Ivan Julia Kevin Linda Marco Nadia Omar Priya Ruth
Simon Theo Amir Bella Carlos Dora""".split()
CITIES = """Paris London Berlin Madrid Rome Vienna Oslo Lisbon Prague Athens Cairo Tokyo
Delhi Lima Boston Chicago Dublin Geneva Helsinki Kyoto Lagos Milan Nairobi Porto Quito
Seoul Sydney Toronto Warsaw Zurich Bergen Lyon Turin Bremen Austin Denver""".split()
JOBS = """teacher doctor farmer baker pilot nurse writer painter lawyer driver singer
cook engineer chemist plumber dentist sailor tailor judge editor librarian gardener
carpenter actor""".split()
NOUNS = """apple river stone cloud table chair window garden bridge candle mirror basket
hammer pencil ladder bottle button carpet engine feather forest guitar helmet island
jacket kettle lantern market needle orange pillow rabbit saddle tunnel violin wagon
anchor barrel camera desert eagle finger glove harbor insect jungle kitten lemon magnet
napkin oyster parrot quilt rocket shovel tiger umbrella valley wallet yacht zebra acorn
beach crown drum echo flag grape horse ink jewel key lamp moon nest ocean piano queen
road ship train vase whale bell coin door egg fish gate hill ice lake map nail oven plum
rope sand tree wall wheel""".split()
COLORS = "red blue green yellow black white purple brown pink gray".split()
ITEMS = """books pens lamps chairs shirts cups plates phones bags boots apples bread
cheese milk rice tables clocks maps coats hats rings bikes kites drums""".split()
ADJECTIVES = """small large quiet bright old new heavy narrow warm cold soft sharp plain
strange clean empty""".split()
GOOD = """great excellent wonderful lovely superb brilliant delightful charming splendid
fantastic amazing pleasant perfect enjoyable impressive terrific""".split()
BAD = """terrible awful horrible boring dreadful poor disappointing annoying ugly dull
nasty bad unpleasant broken useless weak""".split()
GOOD_HELD = "marvelous good".split()  # adjectives that only held-out examples use
BAD_HELD = "miserable disgusting".split()
TOPICS: dict[str, list[str]] = {
    "sports": """match team goal coach player league stadium race medal tennis football referee
tournament athlete score championship""".split(),
    "science": """experiment planet atom telescope laboratory theory molecule cell physics gene
microscope orbit researcher energy fossil galaxy""".split(),
    "business": """market profit company shares bank invoice investor merger budget sales customer
contract revenue price trade factory""".split(),
    "music": """song concert melody guitar orchestra drummer album singer rhythm piano choir violin
band chorus lyrics symphony""".split(),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ALNUM = LETTERS + "0123456789"


def pseudo(rng: random.Random, capital: bool = False) -> str:
    """A word that no list holds, so that a model must read letters rather than know words."""
    parts = [rng.choice("b c d f g h j k l m n p r s t v w z br st tr ch sh pl".split())
             + rng.choice("a e i o u ai ea oo".split()) for _ in range(rng.randint(1, 3))]
    word = "".join(parts) + rng.choice(["", "n", "r", "s", "l", "t", "x"])
    return word.capitalize() if capital else word


def some(rng: random.Random, known: list[str]) -> str:
    """A word of the list, or now and then an unknown one of the same case."""
    word = rng.choice(known)
    return pseudo(rng, word[0].isupper()) if rng.random() < 0.25 else word


def key8(rng: random.Random, prefix: str = "") -> str:
    """A random key of eight lowercase letters and digits."""
    return prefix + "".join(rng.choices(ALNUM, k=8 - len(prefix)))


def words(rng: random.Random, count: int) -> list[str]:
    """`count` different nouns."""
    if rng.random() < 0.75:
        return rng.sample(NOUNS, count)
    return list(dict.fromkeys(pseudo(rng) for _ in range(4 * count)))[:count]


def pick(rng: random.Random, *options: str) -> str:
    """One of the options."""
    return options[int(rng.random() * len(options))]
