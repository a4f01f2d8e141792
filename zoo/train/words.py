"""Word lists that the task generators draw from."""

from __future__ import annotations

import random

NAMES = """Ada Ben Cora Dan Eva Finn Gina Hugo Ida Jack Kara Leo Mia Noah Olga Paul Rosa Sam Tina Uma
Vera Will Yara Zoe Anna Boris Clara David Emma Felix Greta Henry Irene James Karen Lucas Maria Nina
Oscar Petra Ravi Sara Tom Ursula Victor Wendy Xavier Alice Bruno Diana Eric Fatima George Helen Ivan
Julia Kevin Linda Marco Nadia Omar Priya Ruth Simon Theo Amir Bella Carlos Dora""".split()
CITIES = """Paris London Berlin Madrid Rome Vienna Oslo Lisbon Prague Athens Cairo Tokyo Delhi Lima
Boston Chicago Dublin Geneva Helsinki Kyoto Lagos Milan Nairobi Porto Quito Seoul Sydney Toronto
Warsaw Zurich Bergen Lyon Turin Bremen Austin Denver""".split()
JOBS = """teacher doctor farmer baker pilot nurse writer painter lawyer driver singer cook engineer
chemist plumber dentist sailor tailor judge editor librarian gardener carpenter actor""".split()
NOUNS = """apple river stone cloud table chair window garden bridge candle mirror basket hammer
pencil ladder bottle button carpet engine feather forest guitar helmet island jacket kettle lantern
market needle orange pillow rabbit saddle tunnel violin wagon anchor barrel camera desert eagle
finger glove harbor insect jungle kitten lemon magnet napkin oyster parrot quilt rocket shovel
tiger umbrella valley wallet yacht zebra acorn beach crown drum echo flag grape horse ink jewel
key lamp moon nest ocean piano queen road ship train vase whale bell coin door egg fish gate hill
ice lake map nail oven plum rope sand tree wall wheel""".split()
COLORS = "red blue green yellow black white purple brown pink gray".split()
ITEMS = """books pens lamps chairs shirts cups plates phones bags boots apples bread cheese milk rice
tables clocks maps coats hats rings bikes kites drums""".split()
ADJECTIVES = """small large quiet bright old new heavy narrow warm cold soft sharp plain strange clean
empty""".split()
GOOD = """great excellent wonderful lovely superb brilliant delightful charming splendid fantastic
amazing pleasant perfect enjoyable impressive terrific""".split()
BAD = """terrible awful horrible boring dreadful poor disappointing annoying ugly dull nasty bad
unpleasant broken useless weak""".split()
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


def key8(rng: random.Random, prefix: str = "") -> str:
    """A random key of eight lowercase letters and digits."""
    return prefix + "".join(rng.choices(ALNUM, k=8 - len(prefix)))


def words(rng: random.Random, count: int) -> list[str]:
    """`count` different nouns."""
    return rng.sample(NOUNS, count)


def pick(rng: random.Random, *options: str) -> str:
    """One of the options."""
    return options[int(rng.random() * len(options))]
