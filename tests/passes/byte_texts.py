"""A tokenizer of bytes, and a chat format of three marker tokens."""

from weft.ir.vocabulary import Frame


class ByteTokenizer:
    """One token a byte, from id 10 on, but `ab` is one token (id 9): texts that join matter."""

    size = 266
    end_ids = (2,)
    special_ids = frozenset(range(9))

    def encode(self, text):
        ids, data = [], text.encode()
        while data:
            step = 2 if data[:2] == b"ab" else 1
            ids.append(9 if step == 2 else data[0] + 10)
            data = data[step:]
        return ids

    def decode(self, ids):
        return b"".join(self.token_bytes(id) for id in ids).decode(errors="replace")

    def token_bytes(self, id):
        return b"ab" if id == 9 else bytes([id - 10]) if id >= 10 else b""


class MarkerChat:
    """`<1>` starts; `<3|4|5>` opens a message, `<2>` closes it."""

    def start(self):
        return (1,)

    def frame(self, previous_roles, role):
        return Frame(({"system": 3, "user": 4, "assistant": 5}[role],), (2,))
