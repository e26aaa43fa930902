#!/usr/bin/env python3
"""Writes fold-table.h: how the embedder folds the letters of U+0080–U+058F and U+1E00–U+1FFF.

Run by hand, once. The committed output is the authority, not this script: another Unicode version
must not change it, because vectors made with it are on people's disks ("hash-1536-v1").
"""
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


def table(name, first, last, out):
    out.append("static const uint16_t %s[0x%04X - 0x%04X + 1] = {" % (name, last, first))
    row = []
    for cp in range(first, last + 1):
        row.append("0x%04X" % fold(cp))
        if len(row) == 12 or cp == last:
            out.append("\t" + ", ".join(row) + ",")
            row = []
    out.append("};")


OUT = ["/* Written by make-fold-table.py (Unicode %s); never change a value: see there. */" % unicodedata.unidata_version,
       "/* clang-format off */"]
table("fold_low", 0x0080, 0x058F, OUT)
table("fold_additional", 0x1E00, 0x1FFF, OUT)
OUT.append("/* clang-format on */")
print("\n".join(OUT))
