"""Texts as few bytes as a page can unpack: words become numbers of one or two bytes, then deflate (base64 in the page).

A frequent word is one byte (0 to 189), another known one two bytes (190 to 253 and any), an unknown piece stands
between two bytes 255, and 254 ends a text. Deflate looks back 32,768 bytes: in packed form these hold four times the
words. web/texts.js is the reverse.
"""

import base64
import re
import zlib
from collections import Counter
from collections.abc import Iterable

PIECE = re.compile(r" ?[A-Za-z]+|<\|?/?[a-z_]+\|?>|\d|[^A-Za-z\d]")
SHORT, LONG = 190, 64 * 256
END, ESCAPE = b"\xfe", b"\xff"
CHUNK = 256
"""Texts unpacked together."""


def build_vocabulary(texts: Iterable[str]) -> list[str]:
    """The most frequent pieces, at most as many as there are numbers, the most frequent first."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(PIECE.findall(text))
    return [
        piece
        for piece, count in counts.most_common(SHORT + LONG)
        if count > 1 or len(counts) < SHORT
    ]


def encode_vocabulary(vocabulary: list[str]) -> dict[str, bytes]:
    """piece -> its bytes."""
    return {
        piece: bytes((index,))
        if index < SHORT
        else bytes((SHORT + (index - SHORT >> 8), index - SHORT & 255))
        for index, piece in enumerate(vocabulary)
    }


def pack_texts(texts: list[str], codes: dict[str, bytes]) -> bytes:
    """Texts to deflated bytes. Lone surrogates, which no UTF-8 can hold, become U+FFFD."""
    packed = []
    for text in texts:
        for piece in PIECE.findall(text):
            code = codes.get(piece)
            packed.append(
                code if code is not None else ESCAPE + piece.encode("utf-8", "replace") + ESCAPE
            )
        packed.append(END)
    return zlib.compress(b"".join(packed), 9)


def unpack_texts(data: bytes, vocabulary: list[str]) -> list[str]:
    """The reverse of `pack_texts`: what the page does, for the tests."""
    raw = zlib.decompress(data)
    texts: list[str] = []
    text: list[str] = []
    place = 0
    while place < len(raw):
        byte = raw[place]
        place += 1
        if byte < SHORT:
            text.append(vocabulary[byte])
        elif byte == 254:
            texts.append("".join(text))
            text = []
        elif byte == 255:
            end = raw.index(255, place)  # 255 is no byte of UTF-8
            text.append(raw[place:end].decode())
            place = end + 1
        else:
            text.append(vocabulary[SHORT + (byte - SHORT << 8) + raw[place]])
            place += 1
    return texts


def to_base64(data: bytes) -> str:
    """For the page's data elements."""
    return base64.b64encode(data).decode("ascii")
