"""Turn pinned Debian documentation packages into plain English text and token files.

    apt-get download $(python zoo/train/corpus.py --names)      # in DIR
    python zoo/train/corpus.py DIR OUT                          # text, before the tokenizer exists
    python zoo/train/corpus.py DIR OUT --tokenizer zoo/tiny-dense/tokenizer.json
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

PACKAGES: dict[str, tuple[str, str]] = {  # name -> (version, sha256 of the .deb)
    "wordnet-base": (
        "1:3.0-37", "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"),
    "python3.11-doc": (
        "3.11.2-6+deb12u9", "5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be"),
    "postgresql-doc-15": (
        "15.20-0+deb12u1", "4c44bf2c599f208b3f46454a6cf7a72e25ec46ff74d37b59dd31ad76b00eebb7"),
    "sqlite3-doc": (
        "3.40.1-2+deb12u2", "466e30d7066e2641fa13e56bc662a2ad521b8cc9c17dde9c9dac3d4f105e32f2"),
    "perl-doc": (
        "5.36.0-7+deb12u4", "f4269cff4576d6f02a6756df842988e58451c7e945b08517dd235531b24e48f8"),
    "apache2-doc": (
        "2.4.71-1~deb12u1", "a7b3d1131c1c63dbf9999b28e75f9a133d30f70492b419936bd51759ac77a01f"),
    "dict-jargon": (
        "4.4.7-3.1", "405f8168d7994ed2cb71407bb95493daec2e9aa66fc0461dafa74a9d6728a8c1"),
}
SAMPLED = ("wordnet-base", "sqlite3-doc", "dict-jargon")  # public domain, or a notice suffices
BLOCKS = {"p", "li", "dd", "dt", "div", "td", "th", "tr", "table", "ul", "ol", "dl", "br",
          "h1", "h2", "h3", "h4", "h5", "section", "article", "blockquote"}
SKIPPED = {"script", "style", "pre", "nav", "head", "svg", "title", "code-block"}


class Paragraphs(HTMLParser):
    """Collects the visible text of an HTML page, one string a block element."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.done: list[str] = []
        self.now: list[str] = []
        self.hidden = 0

    def flush(self) -> None:
        """End the present paragraph."""
        text = re.sub(r"\s+", " ", "".join(self.now)).strip().replace("\u00b6", "")
        if text:
            self.done.append(text)
        self.now = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Open a block or a hidden element."""
        if tag in SKIPPED:
            self.hidden += 1
        if tag in BLOCKS or tag in SKIPPED:
            self.flush()

    def handle_endtag(self, tag: str) -> None:
        """Close a block or a hidden element."""
        if tag in SKIPPED and self.hidden:
            self.hidden -= 1
        if tag in BLOCKS:
            self.flush()

    def handle_data(self, data: str) -> None:
        """Keep visible text."""
        if not self.hidden:
            self.now.append(data)


def is_prose(text: str) -> bool:
    """Whether a paragraph reads as a sentence rather than a heading, a table cell or code."""
    letters = sum(c.isalpha() or c == " " for c in text)
    return len(text) >= 60 and letters >= 0.8 * len(text) and text[-1] in ".:!?)\"'"


def html_paragraphs(page: str) -> list[str]:
    """The prose paragraphs of an HTML page."""
    parser = Paragraphs()
    parser.feed(page)
    parser.flush()
    return [p for p in parser.done if is_prose(p)]


def pod_paragraphs(pod: str) -> list[str]:
    """The prose paragraphs of a Perl manual, with its formatting codes removed."""
    kept = []
    for block in re.split(r"\n\s*\n", pod):
        if block.startswith(("=", " ", "\t")):
            continue
        text = re.sub(r"\s+", " ", block).strip()
        text = re.sub(r"[A-Z]<<+ (.*?) >>+", r"\1", text)
        for _ in range(3):
            text = re.sub(r"[A-Z]<([^<>|]*\|)?([^<>]*)>", r"\2", text)
        if is_prose(text):
            kept.append(text)
    return kept


def wordnet_documents(folder: Path) -> Iterator[str]:
    """Glosses as `word, word: gloss`, twelve a document."""
    for part in ("noun", "verb", "adj", "adv"):
        lines = []
        for line in (folder / f"data.{part}").read_text("utf-8", "replace").splitlines():
            if line.startswith(" ") or "|" not in line:
                continue
            fields, gloss = line.split("|", 1)
            cells = fields.split()
            names = [cells[4 + 2 * i] for i in range(int(cells[3], 16))]
            names = [re.sub(r"\(\w+\)$", "", n).replace("_", " ") for n in names]
            lines.append(f"{', '.join(names)}: {gloss.strip()}")
        for at in range(0, len(lines), 12):
            yield "\n".join(lines[at : at + 12])


def jargon_documents(path: Path) -> Iterator[str]:
    """Entries of the Jargon File, paragraphs re-flowed."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
    for entry in re.split(r"\n\n(?=\S)", text):
        blocks = [re.sub(r"\s+", " ", b).strip() for b in re.split(r"\n\s*\n", entry)]
        blocks = [re.sub(r"[{}]", "", b) for b in blocks if len(b) > 40]
        if blocks:
            yield "\n\n".join(blocks)


def documents(package: str, root: Path) -> Iterator[str]:
    """The documents of one unpacked package."""
    if package == "wordnet-base":
        yield from wordnet_documents(root / "usr/share/wordnet")
    elif package == "dict-jargon":
        yield from jargon_documents(root / "usr/share/dictd/jargon.dict.dz")
    elif package == "perl-doc":
        for path in sorted(root.rglob("*.pod")):
            if re.search(r"perl(cn|jp|ko|tw)\.pod$", path.name):
                continue
            yield "\n\n".join(pod_paragraphs(path.read_text("utf-8", "replace")))
    else:
        for path in sorted(root.rglob("*.html")):
            if package == "apache2-doc" and "/manual/en/" not in str(path):
                continue
            yield "\n\n".join(html_paragraphs(path.read_text("utf-8", "replace")))


def unpack(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (package, document) of every pinned package, after checking its hash."""
    seen: set[int] = set()
    for package, (version, digest) in PACKAGES.items():
        deb = folder / f"{package}_{version.replace(':', '%3a')}_all.deb"
        if hashlib.sha256(deb.read_bytes()).hexdigest() != digest:
            raise SystemExit(f"{deb.name}: not the pinned file (sha256 differs)")
        with tempfile.TemporaryDirectory() as root:
            subprocess.run(["dpkg-deb", "-x", str(deb), root], check=True)
            for document in documents(package, Path(root)):
                fresh = []
                for paragraph in document.split("\n\n"):
                    if (key := hash(paragraph)) not in seen:
                        seen.add(key)
                        fresh.append(paragraph)
                if len(text := "\n\n".join(fresh)) > 100:
                    yield package, text


def held_out(document: str) -> bool:
    """Whether a document belongs to the 2 % never trained on (by content)."""
    return hashlib.sha256(document.encode()).digest()[0] < 5


def main() -> None:
    """Write train.txt and heldout.txt (documents split by NUL), or the token files."""
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("debs", type=Path, nargs="?")
    args.add_argument("out", type=Path, nargs="?")
    args.add_argument("--tokenizer", type=Path)
    args.add_argument("--names", action="store_true", help="print NAME=VERSION of each package")
    args.add_argument("--sample", type=Path, help="also write a short held-out text here")
    given = args.parse_args()
    if given.names:
        print(" ".join(f"{name}={version}" for name, (version, _) in PACKAGES.items()))
        return
    if given.debs is None or given.out is None:
        args.error("give the folder of the packages, and the one that is written")
    given.out.mkdir(parents=True, exist_ok=True)
    texts: dict[str, list[str]] = {"train": [], "heldout": []}
    sizes: dict[str, int] = {}
    sample: dict[str, list[str]] = {name: [] for name in SAMPLED}
    for package, document in unpack(given.debs):
        texts["heldout" if held_out(document) else "train"].append(document)
        if package in sample and held_out(document):
            sample[package].append(document[:3000])
        sizes[package] = sizes.get(package, 0) + len(document)
    for package, size in sizes.items():
        print(f"{package:20} {size / 1e6:6.2f} M characters")
    for name, parts in texts.items():
        (given.out / f"{name}.txt").write_text("\0".join(parts), "utf-8")
    if given.sample:
        short = ["\n\n".join(parts)[:16000].rsplit(".", 1)[0] + "." for parts in sample.values()]
        given.sample.write_text("\n\n".join(short) + "\n", "utf-8")
    if given.tokenizer:
        import numpy as np
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(given.tokenizer))
        bos, eos = tokenizer.token_to_id("<|bos|>"), tokenizer.token_to_id("<|eos|>")
        for name, parts in texts.items():
            ids: list[int] = []
            for document in parts:
                ids += [bos, *tokenizer.encode(document).ids, eos]
            array = np.array(ids, np.uint16)
            array.tofile(given.out / f"{name}.bin")
            digest = hashlib.sha256(array.tobytes()).hexdigest()
            print(f"{name}.bin {len(ids) / 1e6:.2f} M tokens, sha256 {digest}")


if __name__ == "__main__":
    main()
