#define LOG_SUBSYSTEM LOG_IN_STORE
#include "letters.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "fault.h"
#include "log.h"

static size_t place_of(const struct letters *l, uint64_t number)
{
	size_t lo = 0, hi = l->n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (l->v[mid].number < number)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct letter *letters_find(const struct letters *l, uint64_t number)
{
	size_t i = place_of(l, number);
	return i < l->n && l->v[i].number == number ? &l->v[i] : NULL;
}

const struct letter *letters_at(const struct letters *l, uint64_t seq, uint32_t op)
{
	for (size_t i = l->n; i--;)
		if (l->v[i].seq == seq && l->v[i].op == op)
			return &l->v[i];
	return NULL;
}

unsigned letters_of(struct letters *l, uint64_t seq)
{
	unsigned n = 0;
	pthread_mutex_lock(&l->lock);
	for (size_t i = 0; i < l->n; i++)
		n += l->v[i].seq == seq;
	pthread_mutex_unlock(&l->lock);
	return n;
}

static void insert(struct letters *l, const struct dead_letter *d)
{
	struct letter e = {.number = d->number,
			   .seq = d->seq,
			   .ns = d->ns,
			   .version = d->version,
			   .id = d->id,
			   .op = d->op,
			   .type = d->type,
			   .tries = d->tries};
	size_t at = place_of(l, d->number);
	pthread_mutex_lock(&l->lock);
	if (at == l->n || l->v[at].number != d->number) {
		if (l->n == l->cap) {
			l->cap = l->cap ? 2 * l->cap : 64;
			l->v = util_realloc(l->v, l->cap * sizeof(*l->v));
		}
		memmove(l->v + at + 1, l->v + at, (l->n - at) * sizeof(*l->v));
		l->n++;
	}
	l->v[at] = e;
	pthread_mutex_unlock(&l->lock);
	if (l->last < d->number)
		l->last = d->number;
}

static void load(struct letters *l, uint64_t number)
{
	char *bytes = NULL;
	struct dead_letter d;
	int e = dead_read(l->dir, number, &bytes, &d);
	l->last = number;
	if (!e)
		insert(l, &d);
	else if (e == ENOENT) /* a predecessor was removing it */
		(void)!dead_remove(l->dir, number);
	else
		log_error("dead letter %llu in %s/" DEAD_SUBDIR " cannot be read (%s); it is left where it is",
			  (unsigned long long)number, l->data_dir, e == EBADMSG ? "damaged" : strerror(e));
	free(bytes);
}

bool letters_open(struct letters *l, const char *data_dir)
{
	uint64_t *numbers = NULL;
	size_t n = 0;
	*l = (struct letters){.dir = -1, .data_dir = util_strndup(data_dir, strlen(data_dir))};
	pthread_mutex_init(&l->lock, NULL);
	l->dir = dead_open(data_dir, false);
	if (l->dir == -1)
		return errno == ENOENT;
	dead_tidy(l->dir);
	if (!dead_numbers(l->dir, &numbers, &n))
		return false;
	for (size_t i = 0; i < n; i++)
		load(l, numbers[i]);
	free(numbers);
	return true;
}

void letters_close(struct letters *l)
{
	if (l->dir != -1)
		close(l->dir);
	free(l->v);
	free(l->data_dir);
	*l = (struct letters){.dir = -1};
}

int letters_add(struct letters *l, struct dead_letter *letter, size_t max)
{
	bool known = letter->number && letters_find(l, letter->number);
	if (!known && (l->n >= max || l->last >= UINT32_MAX))
		return EDQUOT;
	if (l->dir == -1 && (l->dir = dead_open(l->data_dir, true)) == -1)
		return errno;
	if (!letter->number)
		letter->number = l->last + 1;
	int e = dead_write(l->dir, letter);
	FAULT_POINT(dead_written);
	if (!e)
		insert(l, letter);
	return e;
}

int letters_remove(struct letters *l, uint64_t number)
{
	size_t at = place_of(l, number);
	if (at == l->n || l->v[at].number != number)
		return 0;
	int e = dead_remove(l->dir, number);
	if (e)
		return e;
	pthread_mutex_lock(&l->lock);
	memmove(l->v + at, l->v + at + 1, (--l->n - at) * sizeof(*l->v));
	pthread_mutex_unlock(&l->lock);
	return 0;
}

static bool of_memory(const struct letter *e) { return e->type == OP_PUT || e->type == OP_DELETE; }

/* Answers kept for idempotency repeat the content: an erase takes them as well. */
static bool deleted_with(const struct letter *e, const struct op_delete *d, uint64_t seq)
{
	if (e->seq >= seq)
		return false;
	if (e->type == OP_IDEM)
		return d->how == DELETE_ERASE && e->ns == d->ns;
	return of_memory(e) && uuid_cmp(&e->id, &d->id) == 0 && (d->how == DELETE_ERASE || e->version <= d->version);
}

int letters_deleted(struct letters *l, const struct op_delete *d, uint64_t seq, unsigned *gone_r)
{
	for (size_t i = l->n; i--;) {
		int e = deleted_with(&l->v[i], d, seq) ? letters_remove(l, l->v[i].number) : -1;
		if (e > 0)
			return e;
		*gone_r += e == 0;
	}
	return 0;
}

int letters_dropped(struct letters *l, uint64_t ns, uint64_t seq, unsigned *gone_r)
{
	for (size_t i = l->n; i--;) {
		int e = l->v[i].ns == ns && l->v[i].seq < seq ? letters_remove(l, l->v[i].number) : -1;
		if (e > 0)
			return e;
		*gone_r += e == 0;
	}
	return 0;
}
