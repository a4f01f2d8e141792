"""Train the byte-level BPE of 4096 (digits and newlines alone) and write the tokenizer files.

    python zoo/train/tokenizer.py CORPUS/train.txt zoo/tiny-dense zoo/tiny-moe
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from tasks import CHAT_TASKS, SPECIALS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

# GPT-like, but every digit and every newline is a piece of its own: numbers have one spelling, and
# text is cut the same way whatever stands on the other side of a role's border.
PIECES = (
    r"\n|'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|[^\S\n]+(?!\S)|[^\S\n]+"
)
TEMPLATE = """\
{{- '<|bos|>' }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('a role is system, user or assistant') }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
"""


def build(texts: list[str], vocabulary: int = 4096) -> Tokenizer:
    """Train on `texts`; the specials get the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == vocabulary
    return tokenizer


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
        "additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def main() -> None:
    """Train on the English text and on a tenth as much text of the tasks."""
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("text", type=Path)
    args.add_argument("folders", type=Path, nargs="+")
    given = args.parse_args()
    texts = given.text.read_text("utf-8").split("\0")
    english = sum(map(len, texts))
    rng, size = random.Random(1), 0
    while size < english // 10:
        task = rng.choice(list(CHAT_TASKS))
        if task.startswith("retrieval"):
            continue  # random keys would waste merges
        text = "\n".join(m["content"] for m in CHAT_TASKS[task](rng))
        texts.append(text)
        size += len(text)
    tokenizer = build(texts)
    for folder in given.folders:
        write(tokenizer, folder)
    count = len(tokenizer.encode("\n".join(texts[::50])).ids)
    print(f"{sum(map(len, texts[::50])) / count:.2f} characters a token")


if __name__ == "__main__":
    main()
