"""Writes sdxl/data/clip/merges.bin from CLIP's published vocabulary.

    python clip_vocabulary.py bpe_simple_vocab_16e6.txt.gz OUT

The input is `clip/bpe_simple_vocab_16e6.txt.gz` of github.com/openai/CLIP (MIT). The Python packages `clip` and `open_clip_torch`
contain the same file. CLIP uses the first 48,894 merges of it. A merge is written as the numbers of its two tokens, u16, little-endian.
"""

import gzip
import hashlib
import struct
import sys

SOURCE = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
# merges.txt of openai/clip-vit-large-patch14 and of SD-XL's two tokenizers
MERGES = "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"


def byte_letters():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def main(source, out):
    packed = open(source, "rb").read()
    assert hashlib.sha256(packed).hexdigest() == SOURCE, "another file than CLIP's"
    lines = gzip.decompress(packed).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    text = "#version: 0.2\n" + "\n".join(lines) + "\n"
    assert hashlib.sha256(text.encode()).hexdigest() == MERGES
    letters = byte_letters()
    tokens = letters + [letter + "</w>" for letter in letters] + [line.replace(" ", "") for line in lines]
    numbers = {token: number for number, token in enumerate(tokens)}
    assert len(numbers) == len(tokens) == 49408 - 2
    pairs = [numbers[token] for line in lines for token in line.split()]
    open(out, "wb").write(struct.pack(f"<{len(pairs)}H", *pairs))


if __name__ == "__main__":
    main(*sys.argv[1:])
