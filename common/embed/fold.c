#include "embed/fold.h"
#include "embed/fold-lower-table.h"
#include "embed/fold-table.h"

/* Of fold_next(), whose mode is constant, the compiler makes a function of its own with nothing of the others in it: a call for each
 * letter would be a sixth more. */
#define FAST inline __attribute__((always_inline))

/* What a code point does: one of these two, or the folded letter, perhaps with a flag above Unicode. */
enum { SEPARATES = 0, DROPPED = 1 };
#define SINGLE (1u << 24) /* a word by itself */
#define PAIR (1u << 25)	  /* two ASCII letters, 5 bits each, as fold-table.h writes them from 0xF000 */

/* Above the tables everything is a letter that folds to itself, but for these rows (ascending). */
enum row_kind { SEP, DROP, ALONE };
/* clang-format off */
static const struct row {
	uint32_t first, last;
	enum row_kind kind;
} rows[] = {
    {0x0591, 0x05BD, DROP},    {0x05BE, 0x05BE, SEP},	  {0x05BF, 0x05C7, DROP},
    {0x05F3, 0x05F4, DROP},    {0x0600, 0x061F, SEP},	  {0x0640, 0x0640, DROP},
    {0x064B, 0x065F, DROP},    {0x066A, 0x066D, SEP},	  {0x0670, 0x0670, DROP},
    {0x06D4, 0x06D4, SEP},     {0x0964, 0x0965, SEP},	  {0x1AB0, 0x1AFF, DROP},
    {0x1DC0, 0x1DFF, DROP},    {0x2000, 0x200B, SEP},	  {0x200C, 0x200F, DROP},
    {0x2010, 0x2018, SEP},     {0x2019, 0x2019, DROP},	  {0x201A, 0x205F, SEP},
    {0x2060, 0x206F, DROP},    {0x2070, 0x209F, SEP},	  {0x20A0, 0x20CF, ALONE},
    {0x20D0, 0x20FF, DROP},    {0x2100, 0x22FF, ALONE},	  {0x2300, 0x25FF, SEP},
    {0x2600, 0x27BF, ALONE},   {0x27C0, 0x2BFF, SEP},	  {0x2E00, 0x2E7F, SEP},
    {0x2E80, 0x2FFF, ALONE},   {0x3000, 0x3004, SEP},	  {0x3005, 0x3007, ALONE},
    {0x3008, 0x3020, SEP},     {0x3021, 0x3029, ALONE},	  {0x302A, 0x302F, DROP},
    {0x3030, 0x303F, SEP},     {0x3040, 0x3098, ALONE},	  {0x3099, 0x309A, DROP},
    {0x309B, 0x30FA, ALONE},   {0x30FB, 0x30FB, SEP},	  {0x30FC, 0x4DBF, ALONE},
    {0x4DC0, 0x4DFF, SEP},     {0x4E00, 0x9FFF, ALONE},	  {0xAC00, 0xD7FF, ALONE},
    {0xF900, 0xFAFF, ALONE},   {0xFE00, 0xFE0F, DROP},	  {0xFE10, 0xFE1F, SEP},
    {0xFE20, 0xFE2F, DROP},    {0xFE30, 0xFE6F, SEP},	  {0xFEFF, 0xFEFF, DROP},
    {0xFF00, 0xFF65, SEP},     {0xFF66, 0xFFDC, ALONE},	  {0xFFDD, 0xFFFF, SEP},
    {0x1F000, 0x1F3FA, ALONE}, {0x1F3FB, 0x1F3FF, DROP},  {0x1F400, 0x1FAFF, ALONE},
    {0x20000, 0x3FFFF, ALONE}, {0xE0000, 0x10FFFF, DROP},
};
/* clang-format on */

static FAST uint32_t fold_ascii(uint32_t c)
{
	if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))
		return c;
	if (c >= 'A' && c <= 'Z')
		return c + ('a' - 'A');
	return c == '\'' ? DROPPED : SEPARATES; /* "don't" is one word, "dont" */
}

static uint32_t fold_high(uint32_t c)
{
	if ((c >= 0xFF10 && c <= 0xFF19) || (c >= 0xFF21 && c <= 0xFF3A) || (c >= 0xFF41 && c <= 0xFF5A))
		return fold_ascii(c - 0xFF00 + 0x20); /* full-width forms */
	size_t lo = 0, hi = ARRAY_LEN(rows);
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		if (c > rows[mid].last)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == ARRAY_LEN(rows) || c < rows[lo].first)
		return c;
	switch (rows[lo].kind) {
	case SEP: return SEPARATES;
	case DROP: return DROPPED;
	default: return c | SINGLE;
	}
}

static FAST uint32_t fold_one(uint32_t c)
{
	if (c < 0x80)
		return fold_ascii(c);
	if (c > 0x058F && (c < 0x1E00 || c > 0x1FFF))
		return fold_high(c);
	uint32_t to = c <= 0x058F ? fold_low[c - 0x80] : fold_additional[c - 0x1E00];
	return to >= 0xF000 ? PAIR | (to - 0xF000) : to;
}

/* With `lower` a letter keeps its marks. */
static FAST uint32_t map_one(uint32_t c, unsigned mode)
{
	if (mode & FOLD_TURKISH && c == 'I')
		return 0x131; /* ı; and İ is i in any case */
	if (!(mode & FOLD_LOWER) || c < 0x80 || (c > 0x058F && (c < 0x1E00 || c > 0x1FFF)))
		return fold_one(c);
	uint32_t to = c <= 0x058F ? lower_low[c - 0x80] : lower_additional[c - 0x1E00];
	return to >= 0xF000 ? PAIR | (to - 0xF000) : to;
}

/* Decodes one code point and steps over it; a malformed byte is a space. */
static FAST uint32_t fold_decode(struct fold *f)
{
	const uint8_t *p = f->p;
	uint32_t c = *p++, least = 0;
	size_t more = 0;
	if (c >= 0xC2 && c <= 0xDF) {
		c &= 0x1F, more = 1, least = 0x80;
	} else if (c >= 0xE0 && c <= 0xEF) {
		c &= 0x0F, more = 2, least = 0x800;
	} else if (c >= 0xF0 && c <= 0xF4) {
		c &= 0x07, more = 3, least = 0x10000;
	} else if (c >= 0x80) {
		c = ' ';
	}
	f->p++;
	if (more == 0)
		return c;
	if ((size_t)(f->end - p) < more)
		return ' ';
	for (size_t i = 0; i < more; i++) {
		if ((p[i] & 0xC0) != 0x80)
			return ' ';
		c = c << 6 | (p[i] & 0x3F);
	}
	if (c < least || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF))
		return ' ';
	f->p += more;
	return c;
}

static FAST void fold_push(struct fold *f, uint32_t c)
{
	if (c & PAIR) {
		f->word[f->len++] = 'a' + (c >> 5 & 31);
		f->word[f->len++] = 'a' + (c & 31);
	} else {
		f->word[f->len++] = c;
	}
}

/* ﬀ ﬁ ﬂ ﬃ ﬄ ﬅ ﬆ, which text copied out of PDF files is full of. */
static FAST bool fold_ligature(struct fold *f, uint32_t c)
{
	static const char *const letters[] = {"ff", "fi", "fl", "ffi", "ffl", "st", "st"};
	if (c < 0xFB00 || c > 0xFB06)
		return false;
	for (const char *s = letters[c - 0xFB00]; *s; s++)
		f->word[f->len++] = (uint32_t)*s;
	return true;
}

/* A combining mark behind a letter: NFD becomes NFC. A mark that makes no other letter is dropped in either. */
static void fold_compose(struct fold *f, uint32_t mark)
{
	size_t lo = 0, hi = ARRAY_LEN(compositions);
	uint32_t *letter = &f->word[f->len - 1];
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		const struct composition *c = &compositions[mid];
		if (c->mark < mark || (c->mark == mark && c->letter < *letter))
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo < ARRAY_LEN(compositions) && compositions[lo].mark == mark && compositions[lo].letter == *letter)
		*letter = compositions[lo].to;
}

static bool is_apostrophe(uint32_t c) { return c == '\'' || c == 0x2019; }

void fold_start(struct fold *f, struct span text)
{
	f->p = (const uint8_t *)text.p;
	f->end = text.len ? f->p + text.len : f->p; /* an empty span may be NULL */
	f->held = 0;
	f->len = 0;
	f->apostrophe = 0;
}

static FAST enum fold_kind next_word(struct fold *f, unsigned mode)
{
	f->len = 0;
	f->apostrophe = 0;
	if (f->held) {
		f->word[f->len++] = f->held;
		f->held = 0;
		return FOLD_SINGLE;
	}
	/* Three places must be free, because one code point can push three. */
	while (f->p < f->end && f->len <= FOLD_WORD_MAX - 3) {
		uint32_t raw = fold_decode(f);
		if (fold_ligature(f, raw))
			continue;
		uint32_t c = map_one(raw, mode);
		if (c == DROPPED) {
			if (mode & FOLD_LOWER && raw >= 0x300 && raw <= 0x36F && f->len)
				fold_compose(f, raw);
			if (!is_apostrophe(raw))
				continue;
			if (!(mode & FOLD_SPLIT)) {
				f->apostrophe = f->len;
				continue;
			}
			c = SEPARATES;
		}
		if (c == SEPARATES) {
			if (f->len)
				break;
			continue;
		}
		if (!(c & SINGLE)) {
			fold_push(f, c);
			continue;
		}
		if (f->len) {
			f->held = c & ~SINGLE;
			break;
		}
		f->word[f->len++] = c & ~SINGLE;
		return FOLD_SINGLE;
	}
	return f->len ? FOLD_WORD : FOLD_END;
}

enum fold_kind fold_next(struct fold *f) { return next_word(f, 0); }
enum fold_kind fold_next_as(struct fold *f, unsigned mode) { return next_word(f, mode); }

size_t fold_letter(uint32_t c, uint32_t out[2])
{
	uint32_t to = fold_one(c);
	if (to == SEPARATES || to == DROPPED)
		return 0;
	if (!(to & PAIR)) {
		out[0] = to & ~SINGLE;
		return 1;
	}
	out[0] = 'a' + (to >> 5 & 31);
	out[1] = 'a' + (to & 31);
	return 2;
}
