#include "redis/reply.h"

#include <hiredis/read.h>
#include <stdio.h>
#include <stdlib.h>

_Static_assert(REPLY_STRING == REDIS_REPLY_STRING && REPLY_ARRAY == REDIS_REPLY_ARRAY &&
		       REPLY_INTEGER == REDIS_REPLY_INTEGER && REPLY_NIL == REDIS_REPLY_NIL &&
		       REPLY_STATUS == REDIS_REPLY_STATUS && REPLY_ERROR == REDIS_REPLY_ERROR,
	       "the types are hiredis'");

struct redis_reader {
	redisReader *hi;
	size_t max, elements, bytes; /* of the reply that is being read */
	bool refused;
};

/* ---- making replies ---- */

static void clear(struct redis_reply *r)
{
	for (size_t i = 0; r->v && i < r->n; i++)
		clear(&r->v[i]);
	free(r->v);
	free(r->text);
}

void redis_reply_free(struct redis_reply **r)
{
	if (*r)
		clear(*r);
	free(*r);
	*r = NULL;
}

/* The element of its array, or a reply of its own. hiredis takes NULL for the want of memory, and stops. */
static struct redis_reply *make(const redisReadTask *t, int type)
{
	struct redis_reply *parent = t->parent ? t->parent->obj : NULL, *r;
	if (parent) {
		AN(parent->type == REPLY_ARRAY && (size_t)t->idx < parent->n);
		r = &parent->v[t->idx];
	} else {
		r = util_zalloc(sizeof(*r));
	}
	r->type = (__typeof__(r->type))type;
	r->within = parent != NULL;
	return r;
}

static void *make_string(const redisReadTask *t, char *p, size_t n)
{
	struct redis_reader *rd = t->privdata;
	if (n > rd->max - rd->bytes) {
		rd->refused = true;
		return NULL;
	}
	rd->bytes += n;
	struct redis_reply *r = make(t, t->type);
	r->text = util_alloc(n + 1);
	memcpy(r->text, p, n);
	r->text[n] = 0;
	r->n = n;
	return r;
}

static void *make_array(const redisReadTask *t, int n)
{
	struct redis_reader *rd = t->privdata;
	if (n < 0 || (size_t)n > REDIS_ELEMENTS_MAX - rd->elements) {
		rd->refused = true;
		return NULL;
	}
	rd->elements += (size_t)n;
	struct redis_reply *r = make(t, REPLY_ARRAY);
	r->v = n ? util_zalloc((size_t)n * sizeof(*r->v)) : NULL;
	r->n = (size_t)n;
	return r;
}

static void *make_integer(const redisReadTask *t, long long v)
{
	struct redis_reply *r = make(t, REPLY_INTEGER);
	r->integer = v;
	return r;
}

static void *make_nil(const redisReadTask *t) { return make(t, REPLY_NIL); }

/* hiredis frees the root of what it could not finish. */
static void free_object(void *p)
{
	struct redis_reply *r = p;
	AN(!r->within);
	redis_reply_free(&r);
}

/* ---- reading ---- */

struct redis_reader *redis_reader_new(size_t max)
{
	static redisReplyObjectFunctions functions = {make_string, make_array, make_integer, make_nil, free_object};
	struct redis_reader *rd = util_zalloc(sizeof(*rd));
	rd->max = max;
	rd->hi = redisReaderCreateWithFunctions(&functions);
	AN(rd->hi);
	rd->hi->privdata = rd;
	return rd;
}

void redis_reader_free(struct redis_reader **rd)
{
	if (*rd)
		redisReaderFree((*rd)->hi);
	free(*rd);
	*rd = NULL;
}

bool redis_reader_feed(struct redis_reader *rd, const void *p, size_t n)
{
	/* hiredis waits for the end of a text before it asks whether it is wanted. */
	if (rd->hi->len - rd->hi->pos + n > rd->max + 65536) {
		rd->refused = true;
		return false;
	}
	return redisReaderFeed(rd->hi, p, n) == REDIS_OK;
}

bool redis_reader_next(struct redis_reader *rd, struct redis_reply **reply_r)
{
	void *reply = NULL;
	*reply_r = NULL;
	if (redisReaderGetReply(rd->hi, &reply) != REDIS_OK)
		return false;
	if (reply)
		rd->elements = rd->bytes = 0;
	*reply_r = reply;
	return true;
}

bool redis_reader_idle(const struct redis_reader *rd) { return rd->hi->len == rd->hi->pos && rd->hi->ridx == -1; }

const char *redis_reader_error(const struct redis_reader *rd)
{
	return rd->refused ? "an answer that is larger than anything asked for" : rd->hi->err ? rd->hi->errstr : "";
}

bool redis_reply_is(const struct redis_reply *r, const char *text)
{
	return r->text && r->type != REPLY_ERROR && r->n == strlen(text) && memcmp(r->text, text, r->n) == 0;
}

bool redis_reply_fails(const struct redis_reply *r, const char *code)
{
	size_t n = strlen(code);
	return r->type == REPLY_ERROR && r->n >= n && memcmp(r->text, code, n) == 0 && (r->n == n || r->text[n] == ' ');
}
