/* The built-in embedder "hash-1536-v1": no model, no network, no statistics of any corpus.
 *
 * Features of a text: its words, pairs of adjacent words, and the character 3-, 4- and 5-grams of each
 * word between boundary marks (fold.h says what a word is). Each feature adds ± its weight to one
 * of 1,536 sums (signed feature hashing); sums are damped to |sum|^¾, which is the tf weighting
 * (and keeps many repetitions from drowning the rest); then the vector is scaled to length 1.
 *
 * Same bits everywhere: sums, damped values and the squared length are integers; floating point only
 * sees single sqrt, multiply and divide steps, each correctly rounded by IEEE 754, in an order that
 * no compiler may change. Nothing may change here without a new id: vectors made by this
 * code are on people's disks, and tests/unit/test_embed.c holds golden ones.
 *
 * Weights were chosen on STS-B dev, LoCoMo and Cranfield together; all are on a plateau (docs/decisions.md). */
#include "embed/embed.h"
#include "embed/fold.h"
#include <math.h>
#include <pthread.h>

enum {
	DIMENSIONS = 1536,
	WEIGHT = 10,	 /* a word, an n-gram */
	WEIGHT_PAIR = 5, /* two adjacent words */
	WEIGHT_STOP = 3, /* a stop word and its n-grams */
	WEIGHT_STOP_PAIR = 2,
	GRAM_MIN = 3,
	GRAM_MAX = 5,
	TEXT_MAX = 1 << 20, /* what is beyond does not count; keeps every integer below far from overflow */
	DAMP_UNIT = 1024,   /* fixed point of the damped values */
	DAMP_KNOWN = 512,   /* sums below, which is nearly all, are damped by a table */
};

/* Function words of English, grouped by length. Negations are not among them: they carry meaning
 * that a cosine must see. A list, not statistics: other languages get along without. */
#define STOP_LONGEST 7
/* clang-format off */
static const char *const stop_words[STOP_LONGEST + 1] = {
    "",
    "a i s t",
    "am an as at be by do he if im in is it me my of on or so to up us we",
    "and any are but can did for had has her him his how its itd let our out own she the too "
    "was who why you",
    "also been both does each from have here into just more most much some such than that them "
    "then they this very were what when whom will with your",
    "about after again being could doing every other quite shall since still their there these "
    "those "
    "until which while whose would yours",
    "before during having itself myself really rather should",
    "because between further himself however through",
};
/* clang-format on */

struct sums {
	int32_t at[DIMENSIONS];
};

static bool hashed_is_stop(const struct fold *f)
{
	if (f->len > STOP_LONGEST)
		return false;
	char w[STOP_LONGEST] = {0};
	for (size_t i = 0; i < f->len; i++) {
		if (f->word[i] >= 0x80)
			return false;
		w[i] = (char)f->word[i];
	}
	for (const char *s = stop_words[f->len]; *s; s += f->len + (s[f->len] == ' ')) {
		if (*s == *w && memcmp(s, w, f->len) == 0)
			return true;
	}
	return false;
}

/* One more symbol of a feature. Odd factor: for a given symbol a bijection of the 64 bits. */
static inline uint64_t hashed_step(uint64_t h, uint64_t symbol) { return (h ^ symbol) * UINT64_C(0x9E3779B97F4A7C15); }

static inline void hashed_add(struct sums *s, uint64_t h, int32_t weight)
{
	/* finalise: every input bit reaches the top 32 (the place) and the lowest (the sign) */
	h ^= h >> 32;
	h *= UINT64_C(0xD6E8FEB86659FD93);
	h ^= h >> 32;
	h *= UINT64_C(0xD6E8FEB86659FD93);
	h ^= h >> 32;
	s->at[(h >> 32) * DIMENSIONS >> 32] += h & 1 ? weight : -weight;
}

/* Different starts keep a word, a pair and an n-gram of the same letters apart. */
static const uint64_t start_word = 1, start_pair = 2, start_gram = 3;

static void hashed_grams(struct sums *s, const struct fold *f, int32_t weight)
{
	uint32_t marked[FOLD_WORD_MAX + 2];
	size_t n = f->len + 2;
	marked[0] = '<';
	memcpy(marked + 1, f->word, f->len * sizeof(marked[0]));
	marked[n - 1] = '>';
	for (size_t i = 0; i + GRAM_MIN <= n; i++) {
		uint64_t h = start_gram;
		for (size_t k = 1; k <= GRAM_MAX && i + k <= n; k++) {
			h = hashed_step(h, marked[i + k - 1]);
			if (k >= GRAM_MIN)
				hashed_add(s, h, weight);
		}
	}
}

static void hashed_sum(struct sums *s, struct span text)
{
	struct fold f;
	uint64_t before = 0;
	bool before_stop = false, before_single = false, first = true;
	enum fold_kind kind;

	if (text.len > TEXT_MAX)
		text.len = TEXT_MAX;
	fold_start(&f, text);
	while ((kind = fold_next(&f)) != FOLD_END) {
		bool single = kind == FOLD_SINGLE;
		bool stop = !single && hashed_is_stop(&f);
		int32_t weight = stop ? WEIGHT_STOP : WEIGHT;
		uint64_t h = start_word;
		for (size_t i = 0; i < f.len; i++)
			h = hashed_step(h, f.word[i]);
		hashed_add(s, h, weight);
		if (!single)
			hashed_grams(s, &f, weight);
		if (!first) {
			/* two ideographs together are what elsewhere is a word */
			int32_t pair = single && before_single ? WEIGHT
				       : stop || before_stop   ? WEIGHT_STOP_PAIR
							       : WEIGHT_PAIR;
			hashed_add(s, hashed_step(hashed_step(start_pair, before), h), pair);
		}
		before = h;
		before_stop = stop;
		before_single = single;
		first = false;
	}
}

static int32_t damp_table[DAMP_KNOWN];

static int32_t damp(int32_t size)
{
	double root = sqrt((double)size);
	double three_quarters = root * sqrt(root);
	/* times a power of two is exact, so a fused multiply-add changes nothing here */
	return (int32_t)(three_quarters * DAMP_UNIT + 0.5);
}

static void fill_damp_table(void)
{
	for (int32_t i = 0; i < DAMP_KNOWN; i++)
		damp_table[i] = damp(i);
}

/* Damps and scales. False: no feature, x is all zero. A text of twenty words leaves three quarters of the sums at zero. */
static bool hashed_finish(const struct sums *s, float *x)
{
	uint16_t place[DIMENSIONS];
	int32_t damped[DIMENSIONS];
	uint64_t square = 0;
	size_t n = 0;
	for (size_t i = 0; i < DIMENSIONS; i++) {
		place[n] = (uint16_t)i;
		n += s->at[i] != 0;
	}
	for (size_t i = 0; i < n; i++) {
		int32_t sum = s->at[place[i]], size = sum < 0 ? -sum : sum;
		int32_t d = size < DAMP_KNOWN ? damp_table[size] : damp(size);
		square += (uint64_t)d * (uint64_t)d;
		damped[i] = sum < 0 ? -d : d;
	}
	double length = sqrt((double)square);
	memset(x, 0, DIMENSIONS * sizeof(*x));
	for (size_t i = 0; i < n; i++)
		x[place[i]] = (float)(damped[i] / length);
	return square != 0;
}

static size_t hashed_embed(const struct embedder *e, const struct span *texts, size_t n, float *out)
{
	size_t made = 0;
	(void)e;
	for (size_t i = 0; i < n; i++) {
		struct sums s = {{0}};
		hashed_sum(&s, texts[i]);
		made += hashed_finish(&s, out + i * DIMENSIONS);
	}
	return made;
}

const struct embedder *embed_hashed(void)
{
	static const struct embedder hashed = {"hash-1536-v1", DIMENSIONS, hashed_embed};
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, fill_damp_table);
	return &hashed;
}
