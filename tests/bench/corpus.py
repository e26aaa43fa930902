"""Texts and questions that are the same on every machine: words of a vocabulary with the frequencies of a natural
language (Zipf), in sentences as long as memories are."""
import bisect
import itertools
import random

STOP = "the a of to and in is was for that on with as it at by".split()


def words(rng, n):
    onset, vowel, coda = "b d f g k l m n p r s t v st tr pl".split(), "a e i o u".split(), ["", "n", "r", "s", "l"]
    out = dict.fromkeys(STOP)
    while len(out) < n:
        out["".join(rng.choice(onset) + rng.choice(vowel) + rng.choice(coda) for _ in range(rng.randint(2, 4)))] = None
    return list(out)


class Corpus:
    def __init__(self, vocabulary=20000):
        self.rng = random.Random(20261121)
        self.words = words(self.rng, vocabulary)
        self.cumulative = list(itertools.accumulate(1 / (i + 1) for i in range(vocabulary)))

    def sentence(self, low, high):
        n = self.rng.randint(low, high)
        return " ".join(self.words[bisect.bisect(self.cumulative, self.rng.random() * self.cumulative[-1])] for _ in range(n))

    def texts(self, n):
        return [self.sentence(12, 30) for _ in range(n)]

    def questions(self, n):
        return [self.sentence(6, 12) for _ in range(n)]
