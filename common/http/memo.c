/* Header sections that come again: a client that keeps its connection sends the same one before every request, but for the
 * request line. What llhttp and parse.c have made of such a section is kept beside its bytes, and taken when the very same bytes
 * come again. The request line is judged for each request (http_parse_line()), and as strictly as by llhttp.
 *
 * A connection is compared with a section only after it has sent that very section itself: how far the bytes of a stranger agree
 * with a credential in somebody else's is not to be told by the time it takes.
 *
 * Kept are sections of plain HTTP/1.1 requests without a body, without anything joined, and without what differs from request
 * to request. Nothing here refuses: whatever does not fit takes the whole way through scan.c and llhttp, which decides. */
#include <openssl/crypto.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "http/http-private.h"

#define MEMO_MAX 1024u /* bytes of a section */
#define MEMO_FIELDS 24u

struct http_memo {
	uint64_t serial;
	uint32_t len; /* with the empty line at its end */
	uint8_t n_fields;
	uint8_t n_known;
	bool keep, has_host;
	struct {
		uint8_t header, field;
	} known[HTTP_H_COUNT];
	struct {
		uint16_t name, value; /* where in the section */
		uint16_t name_len, value_len;
	} field[MEMO_FIELDS];
	char text[MEMO_MAX];
};

size_t http_memo_len(const struct http_memo *m) { return m->len; }

const struct http_memo *http_memo_find(const struct http_conn *c, const char *p, size_t avail, size_t *first_r)
{
	const struct http_memo *m = c->s->memo[c->memo];
	if (!m || m->serial != c->memo_serial || avail <= m->len + 2)
		return NULL;
	const char *cr = memchr(p, '\r', avail - m->len - 1);
	if (!cr || cr[1] != '\n' || memcmp(cr + 2, m->text, m->len) != 0)
		return NULL;
	const struct http_limits *l = &c->s->lim; /* they may have become less */
	*first_r = (size_t)(cr - p);
	return *first_r + 2 + m->len <= l->head_bytes && m->n_fields <= l->headers ? m : NULL;
}

/* The target of an absolute form says which host is meant, and what the section says does not count. */
static bool plain(const struct http_request *r)
{
	return r->minor == 1 && r->path.p == r->method_text.p + r->method_text.len + 1;
}

bool http_memo_take(const struct http_memo *m, struct http_request *r, const char *section)
{
	if (!plain(r))
		return false;
	for (unsigned i = 0; i < m->n_fields; i++)
		r->fields[i] = (struct http_field){section + m->field[i].name, section + m->field[i].value,
						   m->field[i].name_len, m->field[i].value_len};
	for (unsigned i = 0; i < m->n_known; i++) {
		const struct http_field *f = &r->fields[m->known[i].field];
		r->known[m->known[i].header] = (struct span){f->value, f->value_len};
	}
	r->n_fields = m->n_fields;
	r->keep = m->keep;
	r->has_host = m->has_host;
	r->head_done = r->body_done = true;
	return true;
}

static bool worth_keeping(const struct http_request *r, size_t len)
{
	return r->method <= HTTP_M_HEAD && plain(r) && len <= MEMO_MAX && r->n_fields <= MEMO_FIELDS && !r->joined &&
	       !r->chunked && !r->te.p && !r->length_text.p && !r->expect.p && !r->known[HTTP_H_TRACEPARENT].p &&
	       !r->known[HTTP_H_REQUEST_ID].p && !r->known[HTTP_H_IDEMPOTENCY_KEY].p &&
	       !r->known[HTTP_H_IF_NONE_MATCH].p && !r->known[HTTP_H_IF_MATCH].p;
}

static void keep_known(struct http_memo *m, const struct http_request *r)
{
	m->n_known = 0;
	for (unsigned h = 0; h < HTTP_H_COUNT; h++)
		for (unsigned i = 0; r->known[h].p && i < r->n_fields; i++) {
			if (r->fields[i].value != r->known[h].p)
				continue;
			m->known[m->n_known].header = (uint8_t)h;
			m->known[m->n_known++].field = (uint8_t)i;
			break;
		}
}

void http_memo_keep(struct http_conn *c, const struct http_request *r, const char *section, size_t len)
{
	if (!worth_keeping(r, len))
		return;
	c->memo = (uint8_t)(XXH3_64bits(section, len) % HTTP_MEMOS);
	struct http_memo **at = &c->s->memo[c->memo], *m = *at;
	if (m && m->len == len && CRYPTO_memcmp(m->text, section, len) == 0) {
		c->memo_serial = m->serial; /* of another connection of the same client */
		return;
	}
	if (!m)
		m = *at = util_alloc(sizeof(*m));
	c->memo_serial = m->serial = ++c->s->memo_serial;
	m->len = (uint32_t)len;
	m->n_fields = (uint8_t)r->n_fields;
	m->keep = r->keep;
	m->has_host = r->has_host;
	memcpy(m->text, section, len);
	for (unsigned i = 0; i < r->n_fields; i++) {
		const struct http_field *f = &r->fields[i];
		m->field[i].name = (uint16_t)(f->name - section);
		m->field[i].value = (uint16_t)((f->value_len ? f->value : f->name) - section);
		m->field[i].name_len = (uint16_t)f->name_len;
		m->field[i].value_len = (uint16_t)f->value_len;
	}
	keep_known(m, r);
}

void http_memo_free(struct http_server *s)
{
	for (unsigned i = 0; i < HTTP_MEMOS; i++) {
		free(s->memo[i]);
		s->memo[i] = NULL;
	}
}
