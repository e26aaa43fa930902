/* The scans of codes of a family that has weigh() for one: included by such files, once each. */

static void codes(const uint64_t *planes, const uint64_t *code, size_t n, size_t words, uint32_t *out,
		  const struct quantize_stream *s)
{
	(void)s;
	for (size_t i = 0; i < n; i++)
		out[i] = weigh(planes, QUANTIZE_PLANES, code + i * words, words);
}

static void upper(const uint64_t *planes, const uint64_t *code, size_t n, size_t words, uint32_t *out,
		  const struct quantize_stream *s)
{
	(void)s;
	planes += (QUANTIZE_PLANES - QUANTIZE_UPPER) * words;
	for (size_t i = 0; i < n; i++)
		out[i] = weigh(planes, QUANTIZE_UPPER, code + i * words, words);
}

static void codes_at(const uint64_t *planes, const uint64_t *const *at, size_t n, size_t words, uint32_t *out)
{
	for (size_t i = 0; i < n; i++)
		out[i] = weigh(planes, QUANTIZE_PLANES, at[i], words);
}
