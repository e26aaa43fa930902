#!/usr/bin/env python3
"""Writes fold-table.h: how the embedder folds the letters of U+0080–U+058F and U+1E00–U+1FFF; with the argument "lower"
fold-lower-table.h: how they are only made small, and which of them a letter and a combining mark make.

Run by hand, once. The committed output is the authority, not this script: another Unicode version
must not change it, because vectors made with it are on people's disks ("hash-1536-v1"), and stems.
"""
import sys
import unicodedata

EXPAND = {"æ": "ae", "œ": "oe", "ß": "ss", "þ": "th", "ĳ": "ij", "ǆ": "dz", "ǳ": "dz", "ǉ": "lj", "ǌ": "nj"}
PLAIN = {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "ı": "i", "ſ": "s", "ŉ": "n", "ς": "σ"}


def fold(cp):
    """0 = separates words, 1 = dropped, 0xF000 + … = two ASCII letters, else the folded letter."""
    c = chr(cp)
    if cp == 0xAD or unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me"):
        return 1
    if unicodedata.category(c)[0] not in "LN":
        return 0
    base = PLAIN.get(c) or unicodedata.normalize("NFKD", c)[0].lower()[0]
    base = PLAIN.get(base, base)
    base = unicodedata.normalize("NFKD", base)[0]
    low = c.lower()
    pair = EXPAND.get(low) or EXPAND.get(base)
    if pair:
        return 0xF000 + (ord(pair[0]) - 97) * 32 + ord(pair[1]) - 97
    return ord(base) if base.isalnum() else 0


def lower(cp):
    """As fold(), but a letter keeps its marks: what stemmers expect. Folding it afterwards yields fold(cp)."""
    c = chr(cp)
    folded = fold(cp)
    if folded <= 1 or unicodedata.normalize("NFKD", c) != unicodedata.normalize("NFD", c):
        return folded
    low = {"ς": "σ", "İ": "i"}.get(c) or unicodedata.normalize("NFC", c.lower())
    return ord(low) if len(low) == 1 else folded


def covered(cp):
    return 0x80 <= cp <= 0x58F or 0x1E00 <= cp <= 0x1FFF


def compositions():
    """(letter, mark, both in one), of small letters; also how the Turkish i is written with its dot apart."""
    found = {(0x131, 0x307): 0x69}
    for cp in filter(covered, range(0x80, 0x2000)):
        parts = unicodedata.decomposition(chr(cp)).split()
        if len(parts) != 2 or parts[0].startswith("<") or lower(cp) != cp:
            continue
        base, mark = int(parts[0], 16), int(parts[1], 16)
        if unicodedata.normalize("NFC", chr(base) + chr(mark)) == chr(cp) and 0x300 <= mark <= 0x36F:
            found[(base, mark)] = cp
    return sorted((mark, base, to) for (base, mark), to in found.items())


def check():
    for cp in filter(covered, range(0x80, 0x2000)):
        low = lower(cp)
        again = fold(low) if covered(low) else low
        assert again == fold(cp), hex(cp)


def table(name, first, last, out, of=fold):
    out.append("static const uint16_t %s[0x%04X - 0x%04X + 1] = {" % (name, last, first))
    row = []
    for cp in range(first, last + 1):
        row.append("0x%04X" % of(cp))
        if len(row) == 12 or cp == last:
            out.append("\t" + ", ".join(row) + ",")
            row = []
    out.append("};")


OUT = ["/* Written by make-fold-table.py (Unicode %s); never change a value: see there. */" % unicodedata.unidata_version,
       "/* clang-format off */"]
if sys.argv[1:] == ["lower"]:
    check()
    table("lower_low", 0x0080, 0x058F, OUT, lower)
    table("lower_additional", 0x1E00, 0x1FFF, OUT, lower)
    pairs = compositions()
    OUT.append("static const struct composition {\n\tuint16_t mark, letter, to;\n} compositions[] = {")
    for i in range(0, len(pairs), 5):
        OUT.append("\t" + " ".join("{0x%04X, 0x%04X, 0x%04X}," % p for p in pairs[i:i + 5]))
    OUT.append("};")
else:
    table("fold_low", 0x0080, 0x058F, OUT)
    table("fold_additional", 0x1E00, 0x1FFF, OUT)
OUT.append("/* clang-format on */")
print("\n".join(OUT))
