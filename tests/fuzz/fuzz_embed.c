/* Any bytes: the embedder neither reads past them nor breaks its promises. */
#include "embed/embed.h"
#include "embed/fold.h"
#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_words(struct span text)
{
	struct fold f;
	size_t total = 0;
	enum fold_kind kind;
	fold_start(&f, text);
	while ((kind = fold_next(&f)) != FOLD_END) {
		AN(f.len >= 1 && f.len <= FOLD_WORD_MAX);
		AN(kind == FOLD_WORD || f.len == 1);
		for (size_t i = 0; i < f.len; i++)
			AN(f.word[i] > ' ' && f.word[i] <= 0x10FFFF);
		total += f.len;
	}
	AN(total <= 3 * text.len); /* a code point pushes at most three, of at least as many bytes */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct embedder *e = embed_hashed();
	static float a[1536], b[1536];
	char *copy = util_alloc(size + 1);
	double sum = 0;

	memcpy(copy, data, size);
	struct span t = {copy, size};
	fuzz_words(t);
	size_t made = e->embed(e, &t, 1, a);
	for (size_t i = 0; i < e->dimensions; i++) {
		AN(isfinite(a[i]));
		sum += (double)a[i] * (double)a[i];
	}
	AN(made ? fabs(sum - 1) < 1e-5 : sum == 0);

	/* the case of ASCII letters says nothing, in valid text and in garbage */
	for (size_t i = 0; i < size; i++) {
		if ((copy[i] >= 'a' && copy[i] <= 'z') || (copy[i] >= 'A' && copy[i] <= 'Z'))
			copy[i] ^= 0x20;
	}
	AN(e->embed(e, &t, 1, b) == made);
	AN(memcmp(a, b, sizeof(a)) == 0);
	free(copy);
	return 0;
}
