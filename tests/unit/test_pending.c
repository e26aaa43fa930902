/* The pending table. Broken code this would catch: an entry that is torn or belongs to another key, an older
 * version returned where a newer one is published, a write that is neither here nor in the store, a
 * transaction seen by halves, chains that lose entries when the array wraps or when a killed writer's
 * leftovers are cleared, a replay that puts old versions in front of new ones.
 *
 * Readers here demand what the daemon demands: before they look, they note what was acknowledged
 * (`acked`); they must find that version or a newer one, or, when nothing is pending, the store
 * (`stored`, set before the release as the flusher commits before it) must have it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* The table's own copy of an entry calls back first, so that a writer can come in between. */
#include "shm.h"
static _Thread_local void (*in_between)(void);
static void hooked_copy_out(void *dst, const void *src, size_t n)
{
	void (*fn)(void) = in_between;
	in_between = NULL;
	if (fn)
		fn();
	shm_copy_out(dst, src, n);
}
#define shm_copy_out hooked_copy_out
#include "../../common/pending.c"
#undef shm_copy_out

#define IDS 48
#define OPS 3 /* at most, of one transaction */

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* The journal of these tests: transaction `seq` has ops_of(seq) operations, all derived from it. `life`
 * makes other ones under the same sequence, as never-published ones may be. */
static unsigned ops_of(uint64_t seq, uint64_t life) { return 1 + (unsigned)(mix(seq * 31 + life) % OPS); }
static unsigned id_of(uint64_t seq, unsigned j, uint64_t life)
{
	return (unsigned)((mix(seq * 31 + life) / OPS + j * 7) % IDS); /* OPS distinct ids */
}

static struct uuid uuid_of(unsigned id)
{
	struct uuid u;
	uint64_t a = mix(id + 1), b = mix(a);
	memcpy(u.b, &a, 8);
	memcpy(u.b + 8, &b, 8);
	return u;
}

static struct pending_entry entry_of(uint64_t seq, unsigned j, uint64_t life)
{
	unsigned id = id_of(seq, j, life);
	return (struct pending_entry){.id = uuid_of(id),
				      .ns = 1 + id % 3,
				      .version = seq * 4 + j,
				      .seq = seq,
				      .content_key = 100 + id / 2,
				      .external_key = id % 4 ? 1000 + id : 0,
				      .segment = seq * 3 + j,
				      .offset = mix(seq + j),
				      .len = id,
				      .type = OP_PUT,
				      .expires_us = (int64_t)life,
				      .reserved = {mix(seq), mix(seq) + j}};
}

static bool consistent(const struct pending_entry *e)
{
	struct pending_entry want = entry_of(e->seq, (unsigned)(e->version - e->seq * 4), (uint64_t)e->expires_us);
	want.prev_id = e->prev_id;
	want.prev_content = e->prev_content;
	want.prev_external = e->prev_external;
	return memcmp(&want, e, sizeof(want)) == 0;
}

static struct pending *fresh(uint32_t capacity, int *fd_r)
{
	*fd_r = shm_create("pending", pending_segment_size(capacity));
	assert_true(*fd_r >= 0);
	struct pending *p = pending_open(*fd_r, true, capacity);
	assert_non_null(p);
	return p;
}

static unsigned append(struct pending *p, uint64_t seq, uint64_t life)
{
	unsigned n = ops_of(seq, life);
	for (unsigned j = 0; j < n; j++) {
		struct pending_entry e = entry_of(seq, j, life);
		pending_append(p, &e);
	}
	return n;
}

static void test_visibility(void **state)
{
	(void)state;
	int fd;
	struct pending *p = fresh(1024, &fd), *reader = pending_open(fd, false, 1024);
	struct pending_entry a = entry_of(1, 0, 0), b = a, e, v[8];
	assert_non_null(reader);
	assert_null(pending_open(fd, false, 2048)); /* too small, or another layout */
	assert_null(pending_open(fd, false, 1000));
	pending_append(p, &a);
	assert_false(pending_find_id(reader, &a.id, &e));
	assert_int_equal(pending_count(reader), 0);
	pending_publish(p);
	assert_int_equal(pending_count(reader), 1);
	assert_true(pending_find_id(reader, &a.id, &e) && e.version == a.version);
	assert_true(pending_find_content(reader, a.content_key, &e, 1) && e.version == a.version);
	assert_int_equal(pending_find_external(reader, a.external_key, &e), a.external_key != 0);
	assert_false(pending_find_content(reader, a.content_key + 1, &e, 1));
	assert_false(pending_find_idem(reader, a.ns, &e));
	b.seq = 2;
	b.version = 9;
	b.type = OP_DELETE;
	pending_append(p, &b);
	assert_true(pending_find_id(reader, &a.id, &e) && e.version == a.version);
	pending_publish(p);
	assert_true(pending_find_id(reader, &a.id, &e) && e.type == OP_DELETE && e.version == 9);
	assert_int_equal(pending_versions(reader, &a.id, v, 8), 2);
	assert_true(v[0].version == 9 && v[1].version == a.version);
	assert_int_equal(pending_versions(reader, &a.id, v, 1), 1);
	pending_release(p, 1);
	assert_int_equal(pending_versions(reader, &a.id, v, 8), 1);
	assert_true(v[0].version == 9);
	pending_release(p, 2);
	assert_false(pending_find_id(reader, &a.id, &e));
	assert_int_equal(pending_count(reader), 0);
	pending_close(&p);
	pending_close(&reader);
	close(fd);
}

static void test_idem_and_drop(void **state)
{
	(void)state;
	int fd;
	struct pending *p = fresh(1024, &fd);
	struct pending_entry e, i = {.seq = 1, .type = OP_IDEM, .ns = 5, .expires_us = 77},
				d = {.seq = 2, .type = OP_NS_DROP, .ns = 5};
	uint64_t key = 0x1122334455667788;
	memcpy(i.id.b, &key, 8);
	pending_append(p, &i);
	pending_append(p, &d);
	pending_publish(p);
	assert_true(pending_find_idem(p, key, &e) && e.expires_us == 77);
	assert_false(pending_find_idem(p, key + 1, &e));
	assert_false(pending_find_id(p, &i.id, &e)); /* the same bytes as an id are another thing */
	assert_false(pending_find_id(p, &d.id, &e));
	pending_close(&p);
	close(fd);
}

/* Everything against the plainest model, through many laps of the array. */
static void test_model(void **state)
{
	(void)state;
	int fd;
	struct pending *p = fresh(1024, &fd);
	uint64_t seq = 0, flushed = 0;
	static struct pending_entry all[20000];
	size_t n = 0, first = 0;
	while (n + OPS < ARRAY_LEN(all)) {
		seq++;
		if (pending_full(p, OPS)) {
			flushed = seq - 1 - mix(seq) % 300;
			pending_release(p, flushed);
			while (first < n && all[first].seq <= flushed)
				first++;
		}
		for (unsigned j = 0; j < ops_of(seq, 0); j++)
			all[n++] = entry_of(seq, j, 0);
		append(p, seq, 0);
		pending_publish(p);
		assert_int_equal(pending_count(p), n - first);
		if (seq % 16)
			continue;
		for (unsigned id = 0; id < IDS; id++) {
			struct uuid u = uuid_of(id);
			struct pending_entry e, v[64], c;
			size_t got = pending_versions(p, &u, v, ARRAY_LEN(v)), at = 0;
			const struct pending_entry *content = NULL;
			for (size_t i = n; i-- > first;) {
				if (all[i].content_key == 100 + id / 2 && !content)
					content = &all[i];
				if (uuid_cmp(&all[i].id, &u) == 0 && at < ARRAY_LEN(v)) {
					assert_true(at < got && v[at].version == all[i].version);
					at++;
				}
			}
			assert_int_equal(at, got);
			assert_int_equal(pending_find_id(p, &u, &e), got > 0);
			assert_true(!got || (e.version == v[0].version && consistent(&e)));
			assert_int_equal(pending_find_content(p, 100 + id / 2, &c, 1), content != NULL);
			assert_true(!content || c.version == content->version);
			if (id % 4 == 0)
				assert_false(pending_find_external(p, 1000 + id, &e));
			else
				assert_true(pending_find_external(p, 1000 + id, &e) == (got > 0) &&
					    (!got || e.version == v[0].version));
		}
	}
	pending_close(&p);
	close(fd);
}

static void test_full(void **state)
{
	(void)state;
	int fd;
	struct pending *p = fresh(1024, &fd);
	struct pending_entry e = entry_of(1, 0, 0);
	uint64_t seq = 0;
	while (!pending_full(p, 1)) {
		e.seq = ++seq;
		pending_append(p, &e);
	}
	assert_in_range(seq, 1000, 1024);
	pending_release(p, seq); /* unpublished ones do not go */
	assert_true(pending_full(p, 1));
	pending_publish(p);
	pending_release(p, 10);
	assert_false(pending_full(p, 10));
	assert_true(pending_full(p, 11));
	pending_close(&p);
	close(fd);
}

/* The successor of a writer that died before it published, and of one that died after. */
static void test_recover(void **state)
{
	(void)state;
	int fd;
	struct pending *p = fresh(1024, &fd);
	struct pending_entry e, v[64];
	for (uint64_t seq = 1; seq <= 100; seq++)
		append(p, seq, 0);
	pending_publish(p);
	uint64_t count = pending_count(p);
	for (uint64_t seq = 101; seq <= 150; seq++)
		append(p, seq, 1); /* dies here */
	pending_close(&p);
	p = pending_open(fd, false, 1024);
	pending_recover(p);
	assert_int_equal(pending_count(p), count);
	for (uint64_t seq = 50; seq <= 120; seq++) /* the replay begins below what was published */
		append(p, seq, 0);
	pending_publish(p);
	for (uint64_t seq = 101; seq <= 120; seq++)
		count += ops_of(seq, 0);
	assert_int_equal(pending_count(p), count);
	for (unsigned id = 0; id < IDS; id++) {
		struct uuid u = uuid_of(id);
		size_t n = pending_versions(p, &u, v, ARRAY_LEN(v)), want = 0;
		for (uint64_t seq = 1; seq <= 120; seq++)
			for (unsigned j = 0; j < ops_of(seq, 0); j++)
				want += id_of(seq, j, 0) == id;
		assert_int_equal(n, want);
		for (size_t i = 0; i < n; i++) {
			assert_true(consistent(&v[i]) && v[i].expires_us == 0);
			assert_true(i == 0 || v[i].version < v[i - 1].version);
		}
	}
	/* a table that is empty again still knows what was published */
	pending_release(p, 120);
	pending_close(&p);
	p = pending_open(fd, false, 1024);
	pending_recover(p);
	append(p, 120, 0);
	pending_publish(p);
	assert_int_equal(pending_count(p), 0);
	/* formatted anew: nothing of the old life shows */
	append(p, 121, 0);
	pending_publish(p);
	pending_close(&p);
	p = pending_open(fd, true, 1024);
	assert_int_equal(pending_count(p), 0);
	append(p, 1, 0);
	pending_publish(p);
	e = entry_of(1, 0, 0);
	assert_int_equal(pending_versions(p, &e.id, v, ARRAY_LEN(v)), 1);
	pending_close(&p);
	close(fd);
}

static void test_snapshot(void **state)
{
	(void)state;
	int fd;
	struct pending *p = fresh(4096, &fd);
	struct pending_entry *v, drop = {.type = OP_NS_DROP, .ns = 2, .seq = 501},
				 idem = {.type = OP_IDEM, .ns = 1, .seq = 500};
	assert_int_equal(pending_snapshot(p, 0, &v), 0);
	free(v);
	for (uint64_t seq = 1; seq < 500; seq++)
		append(p, seq, 0);
	pending_append(p, &idem);
	pending_publish(p);
	append(p, 500, 0);
	for (uint64_t ns = 0; ns <= 4; ns++) {
		size_t n = pending_snapshot(p, ns, &v), want = 0;
		for (unsigned id = 0; id < IDS; id++)
			want += !ns || 1 + id % 3 == ns;
		assert_int_equal(n, want); /* every id once */
		for (size_t i = 0; i < n; i++) {
			struct pending_entry e;
			assert_true(!ns || v[i].ns == ns);
			assert_true(pending_find_id(p, &v[i].id, &e) && e.version == v[i].version);
			assert_true(i == 0 || v[i].seq <= v[i - 1].seq);
		}
		free(v);
	}
	pending_append(p, &drop);
	struct pending_entry after = entry_of(502, 0, 0), del = after;
	after.ns = 2;
	pending_append(p, &after);
	del.id = uuid_of(IDS + 1);
	del.type = OP_DELETE;
	del.ns = 1;
	pending_append(p, &del);
	pending_publish(p);
	assert_int_equal(pending_snapshot(p, 2, &v), 2); /* what is newer than the drop, and the drop */
	assert_true(v[0].seq == 502 && v[1].type == OP_NS_DROP);
	free(v);
	size_t n = pending_snapshot(p, 0, &v), twos = 0, deleted = 0;
	for (size_t i = 0; i < n; i++) {
		twos += v[i].ns == 2;
		deleted += v[i].type == OP_DELETE;
	}
	assert_int_equal(twos, 2);
	assert_int_equal(deleted, 1);
	free(v);
	pending_close(&p);
	close(fd);
}

/* ---- a writer between a reader's steps ---- */

static struct pending *the_writer;
static struct pending_entry other;

/* The writer that appended without publishing dies; its successor puts another memory there. */
static void die_and_succeed(void)
{
	pending_recover(the_writer);
	pending_append(the_writer, &other);
	pending_publish(the_writer);
}

/* All is flushed, and the array goes once around with entries of another memory. */
static void flush_and_lap(void)
{
	uint64_t seq = 10;
	pending_release(the_writer, 10);
	while (!pending_full(the_writer, 1)) {
		other.seq = ++seq;
		pending_append(the_writer, &other);
		pending_publish(the_writer);
		if (seq < 1500)
			pending_release(the_writer, seq);
	}
}

static void test_between_steps(void **state)
{
	(void)state;
	int fd;
	struct pending_entry a = entry_of(1, 0, 0), e, v[4], *all;
	other = entry_of(2, 0, 0);
	for (unsigned id = 1; id < IDS; id++) { /* in another chain */
		other.id = uuid_of(id);
		if ((id_hash(&other.id) * 0x9e3779b97f4a7c15ull ^ id_hash(&a.id) * 0x9e3779b97f4a7c15ull) >> 32 & 1023)
			break;
	}
	the_writer = fresh(1024, &fd);
	struct pending *p = pending_open(fd, false, 1024);
	pending_append(the_writer, &a);
	pending_publish(the_writer);
	struct pending_entry b = a;
	b.seq = 2;
	b.version++;
	pending_append(the_writer, &b);
	in_between = die_and_succeed;
	assert_true(pending_find_id(p, &a.id, &e));
	assert_true(e.version == a.version);
	b.seq = other.seq = 3;
	pending_append(the_writer, &b);
	in_between = die_and_succeed;
	assert_int_equal(pending_versions(p, &a.id, v, 4), 1);
	in_between = flush_and_lap;
	assert_false(pending_find_id(p, &a.id, &e));
	pending_close(&the_writer);
	the_writer = pending_open(fd, true, 1024);
	pending_append(the_writer, &a);
	pending_publish(the_writer);
	in_between = flush_and_lap;
	assert_int_equal(pending_snapshot(p, 0, &all), 0);
	free(all);
	pending_close(&p);
	pending_close(&the_writer);
	close(fd);
}

/* ---- readers beside a writer ---- */

/* What writer, readers and killer share; in the daemon: acknowledgements, the store, plant. */
struct world {
	_Atomic uint64_t acked[IDS], stored[IDS]; /* versions */
	_Atomic uint64_t applied, flushed;	  /* sequences */
	_Atomic uint64_t reads, found, bad;
	_Atomic uint32_t stop;
};
static struct world *w;

static void make_world(void)
{
	w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(w != MAP_FAILED);
}

static void complain(const char *what, unsigned id, const struct pending_entry *e, uint64_t acked)
{
	if (atomic_fetch_add(&w->bad, 1) < 5)
		fprintf(stderr, "%s: id %u version %llu seq %llu, acknowledged %llu\n", what, id,
			(unsigned long long)e->version, (unsigned long long)e->seq, (unsigned long long)acked);
}

static void read_partner(struct pending *p, const struct pending_entry *e)
{
	uint64_t life = (uint64_t)e->expires_us;
	unsigned j = (unsigned)(e->version - e->seq * 4), partner = (j + 1) % ops_of(e->seq, life);
	unsigned id = id_of(e->seq, partner, life);
	struct uuid u = uuid_of(id);
	struct pending_entry f = {.seq = 0};
	if (pending_find_id(p, &u, &f) ? f.seq < e->seq : atomic_load(&w->stored[id]) < e->seq * 4)
		complain("half a transaction", id, &f, e->version);
}

static void read_once(struct pending *p, uint64_t x)
{
	unsigned id = (unsigned)(x % IDS);
	struct uuid u = uuid_of(id);
	struct pending_entry e = {.seq = 0}, v[16];
	uint64_t acked = atomic_load(&w->acked[id]);
	bool found = pending_find_id(p, &u, &e);
	atomic_fetch_add_explicit(&w->reads, 1, memory_order_relaxed);
	if (!found) {
		if (atomic_load(&w->stored[id]) < acked)
			complain("neither pending nor stored", id, &e, acked);
		return;
	}
	atomic_fetch_add_explicit(&w->found, 1, memory_order_relaxed);
	if (!consistent(&e) || e.len != id)
		complain("torn", id, &e, acked);
	else if (e.version < acked)
		complain("stale", id, &e, acked);
	else
		read_partner(p, &e);
	if (pending_find_content(p, 100 + id / 2, &e, 1) && (!consistent(&e) || e.content_key != 100 + id / 2))
		complain("torn by content", id, &e, acked);
	if (pending_find_external(p, 1000 + id, &e) && (!consistent(&e) || e.external_key != 1000 + id))
		complain("torn by external id", id, &e, acked);
	size_t n = pending_versions(p, &u, v, ARRAY_LEN(v));
	for (size_t i = 0; i < n; i++)
		if (!consistent(&v[i]) || v[i].len != id || (i && v[i].version >= v[i - 1].version))
			complain("torn versions", id, &v[i], acked);
}

static void read_snapshot(struct pending *p)
{
	uint64_t acked[IDS];
	bool seen[IDS] = {false};
	struct pending_entry *v;
	for (unsigned i = 0; i < IDS; i++)
		acked[i] = atomic_load(&w->acked[i]);
	size_t n = pending_snapshot(p, 0, &v);
	for (size_t i = 0; i < n; i++) {
		unsigned id = v[i].len;
		if (!consistent(&v[i]) || id >= IDS || seen[id]) {
			complain("torn snapshot", id, &v[i], 0);
			break;
		}
		seen[id] = true;
		if (v[i].version < acked[id])
			complain("stale snapshot", id, &v[i], acked[id]);
	}
	for (unsigned i = 0; i < IDS; i++)
		if (!seen[i] && atomic_load(&w->stored[i]) < acked[i])
			complain("missing in snapshot", i, &(struct pending_entry){.seq = 0}, acked[i]);
	free(v);
}

static void read_until_stop(struct pending *p, uint64_t x)
{
	while (!atomic_load(&w->stop)) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		read_once(p, x >> 33);
		if ((x >> 40) % 64 == 0)
			read_snapshot(p);
	}
}

static void note(_Atomic uint64_t *versions, uint64_t seq, uint64_t life)
{
	for (unsigned j = 0; j < ops_of(seq, life); j++)
		atomic_store(&versions[id_of(seq, j, life)], seq * 4 + j);
}

/* The flusher commits up to `to`, then the loop releases. */
static void flush(struct pending *p, uint64_t to, uint64_t *life_of)
{
	for (uint64_t s = atomic_load(&w->flushed) + 1; s <= to; s++)
		note(w->stored, s, life_of ? life_of[s % 4096] : 0);
	atomic_store(&w->flushed, to);
	pending_release(p, to);
}

static int shared_fd;

static void *reader_thread(void *arg)
{
	struct pending *p = pending_open(shared_fd, false, 1024);
	read_until_stop(p, (uintptr_t)arg);
	pending_close(&p);
	return NULL;
}

/* Threads, so that TSan sees it; recoveries happen with readers in the middle, and what comes after
 * them under the same places is something else. */
static void test_threads(void **state)
{
	(void)state;
	pthread_t t[2];
	static uint64_t life_of[4096];
	make_world();
	struct pending *p = fresh(1024, &shared_fd);
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, reader_thread, (void *)(i + 1)), 0);
	uint64_t seq = 0;
	for (int batch = 0; batch < 20000; batch++) {
		uint64_t x = mix((uint64_t)batch), n = 1 + x % 16, life = x >> 40 & 0xff;
		if (pending_full(p, (uint32_t)n * OPS))
			flush(p, seq - (x >> 20) % 200, life_of);
		if (x % 5 == 0) {
			for (uint64_t s = seq + 1; s <= seq + n; s++)
				append(p, s, life + 1000);
			pending_recover(p);
		}
		for (uint64_t s = seq + 1; s <= seq + n; s++) {
			life_of[s % 4096] = life;
			append(p, s, life);
		}
		pending_publish(p);
		for (uint64_t s = seq + 1; s <= seq + n; s++)
			note(w->acked, s, life);
		seq += n;
	}
	atomic_store(&w->stop, 1);
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		pthread_join(t[i], NULL);
	assert_int_equal(w->bad, 0);
	assert_true(w->reads > 0);
	print_message("%llu reads, %llu found\n", (unsigned long long)w->reads, (unsigned long long)w->found);
	pending_close(&p);
	close(shared_fd);
}

/* A writer's whole life: recover, replay what was durable but not applied, go on until killed. */
static void writer_process(void)
{
	struct pending *p = pending_open(shared_fd, false, 1024);
	pending_recover(p);
	uint64_t seq = atomic_load(&w->applied);
	for (;;) {
		uint64_t n = 1 + mix(seq) % 16;
		if (pending_full(p, (uint32_t)n * OPS))
			flush(p, seq - mix(seq) % 200, NULL);
		for (uint64_t s = seq + 1; s <= seq + n; s++)
			append(p, s, 0);
		pending_publish(p);
		for (uint64_t s = seq + 1; s <= seq + n; s++)
			note(w->acked, s, 0);
		seq += n;
		atomic_store(&w->applied, seq);
	}
}

static pid_t start(void (*fn)(void))
{
	pid_t pid = fork();
	if (pid == 0) {
		fn();
		_exit(0);
	}
	assert_true(pid > 0);
	return pid;
}

static void reader_process(void)
{
	struct pending *p = pending_open(shared_fd, false, 1024);
	read_until_stop(p, (uint64_t)getpid());
	pending_close(&p);
}

static void test_kill(void **state)
{
	(void)state;
	int status;
	const char *kills = getenv("PENDING_KILLS");
	make_world();
	struct pending *p = fresh(1024, &shared_fd);
	pid_t reader = start(reader_process);
	uint64_t x = (uint64_t)getpid();
	for (int i = 0; i < (kills ? atoi(kills) : 200); i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		pid_t writer = start(writer_process);
		usleep((useconds_t)((x >> 33) % 4000));
		kill(writer, SIGKILL);
		assert_int_equal(waitpid(writer, &status, 0), writer);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* not an assertion of its own */
	}
	atomic_store(&w->stop, 1);
	assert_int_equal(waitpid(reader, &status, 0), reader);
	assert_int_equal(status, 0);
	assert_int_equal(w->bad, 0);
	assert_true(w->applied > 1000 && w->found > 0);
	print_message("%llu transactions, %llu reads, %llu found\n", (unsigned long long)w->applied,
		      (unsigned long long)w->reads, (unsigned long long)w->found);
	/* after the last death: everything acknowledged is here or stored */
	pending_recover(p);
	for (unsigned id = 0; id < IDS; id++)
		read_once(p, id);
	read_snapshot(p);
	assert_int_equal(w->bad, 0);
	pending_close(&p);
	close(shared_fd);
}

int main(void)
{
	/* clang-format off */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_visibility), cmocka_unit_test(test_idem_and_drop), cmocka_unit_test(test_model),
		cmocka_unit_test(test_full), cmocka_unit_test(test_recover), cmocka_unit_test(test_snapshot),
		cmocka_unit_test(test_between_steps),
		cmocka_unit_test(test_threads), cmocka_unit_test(test_kill),
	};
	/* clang-format on */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
