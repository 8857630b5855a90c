"""Bytes of any file."""

from random import Random

WAYS = (
    "bit", "bit", "byte", "byte", "xor", "zeros", "cut", "cut a little", "more", "double", "moved", "empty",
)  # fmt: skip


def harm_bytes(random: Random, content: bytes) -> tuple[bytes, str]:
    """One of the ways in which a disk, a copy or a program harms bytes."""
    data, size = bytearray(content), len(content)
    if size == 0:
        return bytes([random.randrange(256)]), "a byte in an empty file"
    at = random.choice(
        [random.randrange(size), random.randrange(min(size, 1024)), max(size - 1 - random.randrange(128), 0)]
    )
    length = random.choice([1, 4, 8, 64, 4096])
    match random.choice(
        ["bit", "bit", "byte", "byte", "xor", "zeros", "cut", "cut a little", "more", "double", "moved", "empty"]
    ):
        case "bit":
            data[at] ^= 1 << random.randrange(8)
            return bytes(data), f"a bit of byte {at} flipped, now {data[at]}"
        case "byte":
            data[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)])
            return bytes(data), f"byte {at} is {data[at]}"
        case "xor":
            data[at : at + length] = bytes(byte ^ 0xFF for byte in data[at : at + length])
            return bytes(data), f"bytes {at}..{at + length - 1} inverted"
        case "zeros":
            data[at : at + length] = bytes(len(data[at : at + length]))
            return bytes(data), f"bytes {at}..{at + length - 1} zero"
        case "cut":
            return bytes(data[:at]), f"cut after {at} bytes"
        case "cut a little":
            fewer = random.choice([1, 2, 10, 60])
            return bytes(data[:-fewer]), f"cut by {fewer} bytes"
        case "more":
            return content + random.randbytes(length), f"{length} more bytes at the end"
        case "double":
            return content[: at + length] + content[at:], f"bytes {at}..{at + length - 1} doubled"
        case "moved":
            to = random.randrange(size)
            data[to : to + length] = content[at : at + length]
            return bytes(data[:size]), f"bytes {at}..{at + length - 1} copied to {to}"
        case _:
            return b"", "empty"
