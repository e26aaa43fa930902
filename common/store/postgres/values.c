/* Values in PostgreSQL's binary formats (src/backend/utils/adt, the send and recv functions): big-endian numbers,
 * times in µs since 2000, uuids as they are. */
#include <endian.h>

#include "postgres-private.h"

#define EPOCH_2000_US 946684800000000ll
#define OID_INT2 21
#define OID_INT4 23
#define OID_INT8 20
#define OID_TEXT 25
#define OID_UUID 2950

/* ---- parameters ---- */

void pg_params_reset(struct pg_params *p)
{
	p->n = 0;
	p->scratch.len = 0;
}

void pg_params_free(struct pg_params *p) { buf_free(&p->scratch); }

static void add(struct pg_params *p, const void *v, size_t len, size_t at)
{
	AN(p->n < PG_PARAMS_MAX);
	p->v[p->n] = v;
	p->len[p->n] = (int)len;
	p->at[p->n++] = at;
}

/* The scratch may move while it grows: pg_params_ready() finds what lies in it. */
static void copied(struct pg_params *p, const void *v, size_t len)
{
	size_t at = p->scratch.len + 1;
	buf_add(&p->scratch, v, len);
	add(p, NULL, len, at);
}

void pg_param_copy(struct pg_params *p, const void *v, size_t len) { copied(p, v, len); }

void pg_params_ready(struct pg_params *p)
{
	for (int i = 0; i < p->n; i++)
		if (p->at[i])
			p->v[i] = p->scratch.p + p->at[i] - 1;
}

void pg_param_null(struct pg_params *p) { add(p, NULL, 0, 0); }

void pg_param_int8(struct pg_params *p, int64_t v)
{
	uint64_t n = htobe64((uint64_t)v);
	copied(p, &n, sizeof(n));
}

void pg_param_int4(struct pg_params *p, int32_t v)
{
	uint32_t n = htobe32((uint32_t)v);
	copied(p, &n, sizeof(n));
}

void pg_param_int2(struct pg_params *p, int16_t v)
{
	uint16_t n = htobe16((uint16_t)v);
	copied(p, &n, sizeof(n));
}

void pg_param_bool(struct pg_params *p, bool v) { copied(p, v ? "\1" : "\0", 1); }

void pg_param_real(struct pg_params *p, float v)
{
	int32_t n;
	memcpy(&n, &v, sizeof(n));
	pg_param_int4(p, n);
}

void pg_param_double(struct pg_params *p, double v)
{
	int64_t n;
	memcpy(&n, &v, sizeof(n));
	pg_param_int8(p, n);
}

void pg_param_time(struct pg_params *p, int64_t us) { pg_param_int8(p, us - EPOCH_2000_US); }

void pg_param_time_or_null(struct pg_params *p, int64_t us)
{
	if (us)
		pg_param_time(p, us);
	else
		pg_param_null(p);
}

void pg_param_bytes(struct pg_params *p, const void *v, size_t len) { add(p, v ? v : "", len, 0); }
void pg_param_text(struct pg_params *p, struct span s) { pg_param_bytes(p, s.p, s.len); }
void pg_param_uuid(struct pg_params *p, const struct uuid *u) { pg_param_bytes(p, u->b, sizeof(u->b)); }

void pg_param_text_or_null(struct pg_params *p, struct span s)
{
	if (s.len)
		pg_param_text(p, s);
	else
		pg_param_null(p);
}

void pg_param_jsonb(struct pg_params *p, struct span json)
{
	size_t at = p->scratch.len + 1;
	buf_addc(&p->scratch, 1); /* version of the format */
	buf_add(&p->scratch, json.p, json.len);
	add(p, NULL, json.len + 1, at);
}

/* pgvector, src/vector.c, vector_recv(): int16 dimensions, int16 0, float4 each. */
static void vector(struct pg_params *p, uint32_t dim, const float *x)
{
	size_t at = p->scratch.len + 1, len = 4 + 4 * (size_t)dim;
	buf_reserve(&p->scratch, len);
	char *to = p->scratch.p + p->scratch.len;
	uint16_t head[2] = {htobe16((uint16_t)dim), 0};
	memcpy(to, head, sizeof(head));
	for (uint32_t i = 0; i < dim; i++) {
		uint32_t v;
		memcpy(&v, x + i, sizeof(v));
		v = htobe32(v);
		memcpy(to + 4 + 4 * (size_t)i, &v, sizeof(v));
	}
	p->scratch.len += len;
	add(p, NULL, len, at);
}

void pg_param_embedding(struct pg_params *p, const struct pg_schema *schema, uint32_t dim, const float *x)
{
	if (!dim || !x)
		pg_param_null(p);
	else if (schema->vector)
		vector(p, dim, x);
	else
		pg_param_bytes(p, x, dim * sizeof(*x));
}

/* array_recv(): dimensions, whether it has NULLs, type; length and lower bound of each dimension; elements. */
static size_t array_head(struct pg_params *p, uint32_t type, size_t n)
{
	size_t at = p->scratch.len + 1;
	uint32_t head[5] = {htobe32(n ? 1 : 0), 0, htobe32(type), htobe32((uint32_t)n), htobe32(1)};
	buf_add(&p->scratch, head, n ? sizeof(head) : 3 * sizeof(*head));
	return at;
}

static void element(struct pg_params *p, const void *v, size_t len)
{
	uint32_t l = htobe32((uint32_t)len);
	buf_add(&p->scratch, &l, sizeof(l));
	buf_add(&p->scratch, v, len);
}

static void array_end(struct pg_params *p, size_t at) { add(p, NULL, p->scratch.len + 1 - at, at); }

void pg_param_uuids(struct pg_params *p, const struct uuid *v, size_t n)
{
	size_t at = array_head(p, OID_UUID, n);
	for (size_t i = 0; i < n; i++)
		element(p, v[i].b, sizeof(v[i].b));
	array_end(p, at);
}

void pg_param_int8s(struct pg_params *p, const int64_t *v, size_t n)
{
	size_t at = array_head(p, OID_INT8, n);
	for (size_t i = 0; i < n; i++)
		element(p, &(uint64_t){htobe64((uint64_t)v[i])}, 8);
	array_end(p, at);
}

void pg_param_int4s(struct pg_params *p, const int32_t *v, size_t n)
{
	size_t at = array_head(p, OID_INT4, n);
	for (size_t i = 0; i < n; i++)
		element(p, &(uint32_t){htobe32((uint32_t)v[i])}, 4);
	array_end(p, at);
}

void pg_param_int2s(struct pg_params *p, const int16_t *v, size_t n)
{
	size_t at = array_head(p, OID_INT2, n);
	for (size_t i = 0; i < n; i++)
		element(p, &(uint16_t){htobe16((uint16_t)v[i])}, 2);
	array_end(p, at);
}

void pg_param_texts(struct pg_params *p, const struct span *v, size_t n)
{
	size_t at = array_head(p, OID_TEXT, n);
	for (size_t i = 0; i < n; i++)
		element(p, v[i].p ? v[i].p : "", v[i].len);
	array_end(p, at);
}

/* ---- results ---- */

static uint32_t be32(const char *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static int64_t integer(const char *p, size_t len)
{
	uint16_t s;
	uint64_t l;
	switch (len) {
	case 2: memcpy(&s, p, 2); return (int16_t)be16toh(s);
	case 4: return (int32_t)be32(p);
	case 8: memcpy(&l, p, 8); return (int64_t)be64toh(l);
	}
	return 0;
}

bool pg_is_null(const PGresult *res, int row, int column) { return pq.getisnull(res, row, column); }

struct span pg_text(const PGresult *res, int row, int column)
{
	if (pg_is_null(res, row, column))
		return (struct span){NULL, 0};
	return (struct span){pq.getvalue(res, row, column), (size_t)pq.getlength(res, row, column)};
}

int64_t pg_int(const PGresult *res, int row, int column)
{
	struct span v = pg_text(res, row, column);
	return integer(v.p, v.len);
}

bool pg_bool(const PGresult *res, int row, int column)
{
	struct span v = pg_text(res, row, column);
	return v.len == 1 && *v.p;
}

double pg_real(const PGresult *res, int row, int column)
{
	struct span v = pg_text(res, row, column);
	int64_t n = integer(v.p, v.len);
	float f;
	double d;
	if (v.len == 4) {
		int32_t small = (int32_t)n;
		memcpy(&f, &small, sizeof(f));
		return (double)f;
	}
	memcpy(&d, &n, sizeof(d));
	return v.len == 8 ? d : 0;
}

int64_t pg_time(const PGresult *res, int row, int column)
{
	return pg_is_null(res, row, column) ? 0 : pg_int(res, row, column) + EPOCH_2000_US;
}

struct uuid pg_uuid(const PGresult *res, int row, int column)
{
	struct span v = pg_text(res, row, column);
	struct uuid u = {{0}};
	if (v.len == sizeof(u.b))
		memcpy(u.b, v.p, sizeof(u.b));
	return u;
}

uint32_t pg_embedding(const PGresult *res, int row, int column, const struct pg_schema *schema, float *x, uint32_t max)
{
	struct span v = pg_text(res, row, column);
	if (!schema->vector) {
		if (!v.len || v.len % sizeof(float) || v.len / sizeof(float) > max)
			return 0;
		memcpy(x, v.p, v.len);
		return (uint32_t)(v.len / sizeof(float));
	}
	uint32_t dim = v.len >= 4 ? (uint32_t)integer(v.p, 2) & 0xffff : 0;
	if (!dim || dim > max || v.len != 4 + 4 * (size_t)dim)
		return 0;
	for (uint32_t i = 0; i < dim; i++) {
		uint32_t n = be32(v.p + 4 + 4 * (size_t)i);
		memcpy(x + i, &n, sizeof(n));
	}
	return dim;
}

struct pg_array pg_array(const PGresult *res, int row, int column)
{
	struct span v = pg_text(res, row, column);
	if (v.len < 20 || be32(v.p) != 1)
		return (struct pg_array){NULL, NULL, 0};
	return (struct pg_array){v.p + 20, v.p + v.len, be32(v.p + 12)};
}

bool pg_array_next(struct pg_array *a, struct span *v_r)
{
	if (!a->left || a->end - a->p < 4)
		return false;
	uint32_t len = be32(a->p);
	a->p += 4;
	a->left--;
	if (len == UINT32_MAX) { /* NULL */
		*v_r = (struct span){NULL, 0};
		return true;
	}
	if ((size_t)(a->end - a->p) < len)
		return false;
	*v_r = (struct span){a->p, len};
	a->p += len;
	return true;
}

int64_t pg_array_int(struct span v) { return integer(v.p, v.len); }
