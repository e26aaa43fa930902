/* PostgreSQL's text search types in binary (src/backend/utils/adt/tsvector.c and tsquery.c, the send and recv
 * functions). */
#include <endian.h>

#include "text-private.h"

#define OPERAND 1
#define OPERATOR 2
#define OPERATOR_AND 2
#define OPERATOR_OR 3

struct pg_lexemes pg_lexemes(const PGresult *res, int row, int column)
{
	struct span v = pg_text(res, row, column);
	struct pg_lexemes l = {.p = v.p, .end = v.p + v.len};
	uint32_t n;
	if (v.len < sizeof(n))
		return l;
	memcpy(&n, v.p, sizeof(n));
	l.left = be32toh(n);
	l.p += sizeof(n);
	return l;
}

bool pg_lexeme_next(struct pg_lexemes *l, struct pg_lexeme *x)
{
	uint16_t n;
	if (!l->left--)
		return false;
	size_t len = strnlen(l->p, (size_t)(l->end - l->p));
	if ((size_t)(l->end - l->p) < len + 1 + sizeof(n))
		return false;
	x->text = (struct span){l->p, len};
	l->p += len + 1;
	memcpy(&n, l->p, sizeof(n));
	n = be16toh(n);
	l->p += sizeof(n);
	x->count = n ? n : 1;
	if ((size_t)(l->end - l->p) / 2 < n)
		return false;
	l->p += 2 * (size_t)n;
	return true;
}

/* Polish notation: operator, right operand, left operand, so a chain is "| a | b c". */
void pg_param_tsquery(struct pg_params *p, const struct pg_stem *v, const size_t *which, size_t n, bool all)
{
	struct buf b = {NULL, 0, 0};
	uint32_t items = htobe32((uint32_t)(n ? 2 * n - 1 : 0));
	buf_add(&b, &items, sizeof(items));
	for (size_t i = 0; i < n; i++) {
		struct span s = v[which ? which[i] : i].text;
		if (i + 1 < n) {
			buf_addc(&b, OPERATOR);
			buf_addc(&b, all ? OPERATOR_AND : OPERATOR_OR);
		}
		buf_addc(&b, OPERAND);
		buf_addc(&b, 0); /* of any weight */
		buf_addc(&b, 0); /* no prefix */
		buf_add(&b, s.p, s.len);
		buf_addc(&b, 0);
	}
	pg_param_copy(p, b.p, b.len);
	buf_free(&b);
}
