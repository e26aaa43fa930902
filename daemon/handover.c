#include "handover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/cache.h"
#include "crc32c.h"
#include "log.h"
#include "reqlog.h"
#include "plant.h"
#include "upgrade.h"
#include "version.h"
#include "tried.h"

#define DOCUMENT_MAX (1 << 20)

/* ---- what is handed over ---- */

static const struct descriptor {
	const char *name;
	size_t at;
	bool optional;
} descriptors[] = {
	{"conf", offsetof(struct supervisor, fd_conf), false},
	{"plant", offsetof(struct supervisor, fd_plant), false},
	{"rings", offsetof(struct supervisor, fd_rings), false},
	{"pending", offsetof(struct supervisor, fd_pending), false},
	{"cache", offsetof(struct supervisor, fd_cache), false},
	{"vectors", offsetof(struct supervisor, fd_vectors), false},
	{"vectors_file", offsetof(struct supervisor, fd_vectors_file), true},
	{"words", offsetof(struct supervisor, fd_words), false},
	{"vitals", offsetof(struct supervisor, fd_vitals), false},
	{"lock", offsetof(struct supervisor, fd_lock), false},
	{"ctl", offsetof(struct supervisor, fd_ctl), false},
	{"tcp", offsetof(struct supervisor, fd_tcp), true},
	{"unix", offsetof(struct supervisor, fd_unix), true},
	{"tls", offsetof(struct supervisor, fd_tls), true},
	{"tls_files", offsetof(struct supervisor, fd_tls_files), true},
	{"log", offsetof(struct supervisor, fd_log), true},
	{"requests", offsetof(struct supervisor, fd_requests), true},
	{"spans", offsetof(struct supervisor, fd_spans), true},
	{"image", offsetof(struct supervisor, fd_image), false},
};

static int *descriptor_of(struct supervisor *sv, const struct descriptor *d)
{
	return (int *)(void *)((char *)sv + d->at);
}

/* What must be alike in both programs, because both work on it at the same time. */
static json_t *layouts(void)
{
	return json_pack("{s:i s:I s:i s:i s:i s:i s:i s:i s:I s:i s:i s:i}", "plant", LAYOUT_PLANT, "plant_bytes",
			 (json_int_t)sizeof(struct plant), "rings", LAYOUT_RINGS, "pending", LAYOUT_PENDING, "cache",
			 LAYOUT_CACHE, "vectors", LAYOUT_VECTORS, "words", LAYOUT_WORDS, "vitals", LAYOUT_VITALS,
			 "vitals_bytes", (json_int_t)sizeof(struct vitals), "journal", LAYOUT_JOURNAL, "control",
			 LAYOUT_CONTROL, "slots", SLOT_COUNT);
}

/* Of the first n counters' names: a program with more of them reads the same slots. */
static uint32_t counters_crc(size_t n)
{
	static const char *const names[] = {
#define STAT(id, name, labels, type, help) name "{" labels "}",
#include "stats.def"
#undef STAT
	};
	uint32_t crc = 0;
	for (size_t i = 0; i < n && i < ARRAY_LEN(names); i++)
		crc = crc32c(crc, names[i], strlen(names[i]));
	return crc;
}

/* ---- versions ---- */

#ifdef ORC_FAULT_POINTS
unsigned handover_version(void)
{
	const char *v = getenv("ORC_HANDOVER_VERSION");
	return v ? (unsigned)strtoul(v, NULL, 10) : HANDOVER_VERSION;
}

/* As a program would write them that does not know these fields yet. */
static void leave_out(json_t *doc, json_t *children)
{
	const char *lacks = getenv("ORC_HANDOVER_LACKS");
	for (size_t n; lacks && *lacks; lacks += n + (lacks[n] == ',')) {
		char *name = util_strndup(lacks, n = strcspn(lacks, ","));
		json_object_del(doc, name);
		for (size_t i = 0; i < json_array_size(children); i++)
			json_object_del(json_array_get(children, i), name);
		free(name);
	}
}
#else
unsigned handover_version(void) { return HANDOVER_VERSION; }
static void leave_out(json_t *doc, json_t *children) { (void)doc, (void)children; }
#endif

/* ---- writing ---- */

static json_t *child_out(const struct child *c)
{
	json_t *o = json_pack("{s:i s:s s:i s:i s:I s:I s:I s:i s:i s:s s:s s:I s:I s:i s:i s:b}", "slot", (int)c->slot,
			      "state", child_state_name(c->state), "pid", (int)c->pid, "sock", c->sock, "incarnation",
			      (json_int_t)c->incarnation, "spawned_us", (json_int_t)c->spawned_us, "ready_us",
			      (json_int_t)c->ready_us, "restarts", (int)c->restarts, "faults", (int)c->history.faults,
			      "last_exit", c->last_exit, "last_words", c->last_words, "last_exit_us",
			      (json_int_t)c->last_exit_us, "conf_generation", (json_int_t)c->conf_generation,
			      "prepares", (int)c->prepares, "answers", (int)c->answers, "retiring", c->retiring);
	AN(o);
	return o;
}

static json_t *document(struct supervisor *sv, unsigned version, enum handover_purpose purpose, const char *reason)
{
	json_t *fds = json_object(), *wake = json_array(), *children = json_array();
	for (size_t i = 0; i < ARRAY_LEN(descriptors); i++)
		json_object_set_new(fds, descriptors[i].name, json_integer(*descriptor_of(sv, &descriptors[i])));
	for (unsigned slot = 0; slot < SLOT_COUNT; slot++)
		json_array_append_new(wake, json_integer(sv->fd_wake[slot]));
	for (struct child *c = NULL; (c = child_next(sv, c));)
		json_array_append_new(children, child_out(c));
	json_t *o = json_pack(
		"{s:s s:i s:i s:s s:s s:s* s:o s:i s:I s:o s:o s:o s:o s:I s:I s:I s:I s:s s:s s:s s:s s:s s:b s:I s:I s:I}",
		"document", "orchestra-handover", "version", (int)version, "readable_by",
		version > 1 ? (int)version - 1 : 1, "program", PACKAGE_VERSION, "purpose",
		purpose == HANDOVER_ROLLBACK ? "rollback" : "upgrade", "reason", reason, "layouts", layouts(),
		"counters", STAT_COUNT, "counters_crc", (json_int_t)counters_crc(STAT_COUNT), "fds", fds, "wake", wake,
		"children", children, "replies", upgrade_replies(sv), "started_us", (json_int_t)sv->started_us,
		"started_real_us", (json_int_t)sv->started_real_us, "incarnation", (json_int_t)sv->incarnation,
		"conf_generation", (json_int_t)sv->conf_generation, "unix_path", sv->unix_path, "ctl_path",
		sv->ctl_path, "data_dir", sv->data_dir, "tcp_address", sv->tcp_address, "tls_address", sv->tls_address,
		"unlink_unix", sv->unlink_unix, "unix_inode", (json_int_t)sv->unix_inode, "ctl_inode",
		(json_int_t)sv->ctl_inode, "upgrade_began_us", (json_int_t)upgrade_began_us(sv));
	AN(o);
	json_object_set_new(o, "reload_after", json_boolean(upgrade_reloads_after(sv)));
	json_object_set_new(o, "tried", tried_handover(sv));
	json_object_set_new(o, "clients", control_clients(sv));
	json_object_set_new(o, "requests_layout", json_integer(LAYOUT_REQUESTS));
	json_object_set_new(o, "spans_layout", json_integer(LAYOUT_SPANS));
	json_object_set_new(o, "starting", json_boolean(upgrade_starting(sv)));
	/* One that is no UTF-8 is found again by its reader. */
	json_object_set_new(o, "path", json_string(sv->program));
	leave_out(o, children);
	return o;
}

int handover_write(struct supervisor *sv, unsigned version, enum handover_purpose purpose, const char *reason)
{
	json_t *doc = document(sv, version, purpose, reason);
	char *text = json_dumps(doc, JSON_COMPACT);
	json_decref(doc);
	AN(text && strlen(text) <= DOCUMENT_MAX);
	int fd = shm_sealed("orchestra-handover", &SPAN(text), 1);
	free(text);
	return supervisor_high(fd);
}

static void keep_open(int fd, bool across_exec)
{
	if (fd != -1)
		(void)fcntl(fd, F_SETFD, across_exec ? 0 : FD_CLOEXEC);
}

void handover_keep_open(struct supervisor *sv, bool across_exec)
{
	for (size_t i = 0; i < ARRAY_LEN(descriptors); i++)
		keep_open(*descriptor_of(sv, &descriptors[i]), across_exec);
	for (unsigned slot = 0; slot < SLOT_COUNT; slot++)
		keep_open(sv->fd_wake[slot], across_exec);
	for (struct child *c = NULL; (c = child_next(sv, c));)
		keep_open(c->sock, across_exec);
	control_keep_open(sv, across_exec);
}

/* ---- reading ---- */

static bool judge_layouts(json_t *doc, char **error_r)
{
	json_t *ours = layouts(), *theirs = json_object_get(doc, "layouts"), *v;
	const char *name;
	bool same = true;
	json_object_foreach (ours, name, v) {
		json_t *other = json_object_get(theirs, name);
		if (same && !json_equal(v, other))
			same = util_error(
				error_r,
				"the layout of shared memory differs (%s: %lld there, %lld here): this upgrade needs "
				"a restart of the daemon",
				name, (long long)json_integer_value(other), (long long)json_integer_value(v));
	}
	json_decref(ours);
	json_int_t n = json_integer_value(json_object_get(doc, "counters")),
		   crc = json_integer_value(json_object_get(doc, "counters_crc"));
	/* A program that has more of them than this one counts in places that this one does not look at. */
	if (same && n <= STAT_COUNT && crc != (json_int_t)counters_crc((size_t)n))
		same = util_error(error_r,
				  "the counters have changed places: this upgrade needs a restart of the daemon");
	return same;
}

static bool judge(json_t *doc, char **error_r)
{
	json_int_t version = json_integer_value(json_object_get(doc, "version")),
		   readable = json_integer_value(json_object_get(doc, "readable_by"));
	const char *name = json_string_value(json_object_get(doc, "document"));
	if (!name || strcmp(name, "orchestra-handover") != 0)
		return util_error(error_r, "this is no hand-over document");
	json_int_t ours = handover_version();
	if (version < ours - 1 || readable > ours)
		return util_error(
			error_r,
			"the running daemon hands over in version %lld, and this program takes versions %lld and %lld: "
			"upgrade by a version between them, or restart the daemon",
			(long long)version, (long long)ours - 1, (long long)ours);
	return judge_layouts(doc, error_r);
}

json_t *handover_read(int fd, char **error_r)
{
	struct stat st;
	json_error_t e;
	char *text = NULL;
	json_t *doc = NULL;
	*error_r = NULL;
	if (fstat(fd, &st) == 0 && st.st_size > 0 && st.st_size <= DOCUMENT_MAX) {
		text = util_alloc((size_t)st.st_size);
		if (pread(fd, text, (size_t)st.st_size, 0) == st.st_size)
			doc = json_loadb(text, (size_t)st.st_size, 0, &e);
	}
	free(text);
	if (!doc) {
		(void)util_error(error_r, "the hand-over document cannot be read");
		return NULL;
	}
	if (!judge(doc, error_r)) {
		json_decref(doc);
		return NULL;
	}
	return doc;
}

/* ---- adopting ---- */

static json_int_t number(json_t *o, const char *key) { return json_integer_value(json_object_get(o, key)); }

static char *text_of(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return util_strndup(s ? s : "", s ? strlen(s) : 0);
}

/* An inherited descriptor, close-on-exec again and out of the way of contract.h; -1: it is none. */
static int adopt_fd(json_t *v)
{
	int fd = json_is_integer(v) ? (int)json_integer_value(v) : -1;
	if (fd < 0 || fcntl(fd, F_GETFD) == -1)
		return -1;
	fd = supervisor_high(fd);
	(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	return fd;
}

static enum child_state state_of(json_t *o)
{
	const char *name = json_string_value(json_object_get(o, "state"));
	for (int s = CHILD_STOPPED; s <= CHILD_BACKING_OFF; s++)
		if (name && strcmp(name, child_state_name((enum child_state)s)) == 0)
			return (enum child_state)s;
	return CHILD_STOPPED;
}

static bool adopt_child(struct supervisor *sv, json_t *o)
{
	json_int_t slot = number(o, "slot");
	if (slot < 0 || slot >= SLOT_COUNT || sv->child[slot].used)
		return false;
	struct child *c = &sv->child[slot];
	child_init(c, sv, (unsigned)slot);
	c->state = state_of(o);
	c->pid = (pid_t)number(o, "pid");
	c->incarnation = (uint64_t)number(o, "incarnation");
	c->spawned_us = number(o, "spawned_us");
	c->ready_us = number(o, "ready_us");
	c->restarts = (unsigned)number(o, "restarts");
	c->history.faults = (unsigned)number(o, "faults");
	c->last_exit_us = number(o, "last_exit_us");
	c->conf_generation = (uint64_t)number(o, "conf_generation");
	c->prepares = (uint32_t)number(o, "prepares");
	c->answers = (uint32_t)number(o, "answers");
	c->retiring = json_is_true(json_object_get(o, "retiring"));
	char *last_exit = text_of(o, "last_exit"), *last_words = text_of(o, "last_words");
	snprintf(c->last_exit, sizeof(c->last_exit), "%s", last_exit);
	snprintf(c->last_words, sizeof(c->last_words), "%s", last_words);
	free(last_exit);
	free(last_words);
	int sock = adopt_fd(json_object_get(o, "sock"));
	if (c->pid)
		child_adopt(c, sock);
	return true;
}

static bool adopt_descriptors(struct supervisor *sv, json_t *doc, char **error_r)
{
	json_t *fds = json_object_get(doc, "fds"), *wake = json_object_get(doc, "wake");
	for (size_t i = 0; i < ARRAY_LEN(descriptors); i++) {
		int *to = descriptor_of(sv, &descriptors[i]);
		*to = adopt_fd(json_object_get(fds, descriptors[i].name));
		if (*to == -1 && !descriptors[i].optional)
			return util_error(error_r, "the descriptor \"%s\" was not handed over", descriptors[i].name);
	}
	for (unsigned slot = 0; slot < SLOT_COUNT; slot++) {
		sv->fd_wake[slot] = adopt_fd(json_array_get(wake, slot));
		if (sv->fd_wake[slot] == -1)
			return util_error(error_r, "the eventfd of slot %u was not handed over", slot);
	}
	sv->vitals = vitals_open(sv->fd_vitals, false);
	return sv->vitals || util_error(error_r, "cannot map the vitals segment: %s", strerror(errno));
}

/* A segment that is made anew when its layout is another one. */
static void keep_layout(json_t *doc, const char *name, int layout, int *fd_io)
{
	if (*fd_io == -1 || number(doc, name) == layout)
		return;
	close(*fd_io);
	*fd_io = -1;
}

bool handover_adopt(struct supervisor *sv, json_t *doc, char **error_r)
{
	*error_r = NULL;
	if (!adopt_descriptors(sv, doc, error_r))
		return false;
	keep_layout(doc, "requests_layout", LAYOUT_REQUESTS, &sv->fd_requests);
	keep_layout(doc, "spans_layout", LAYOUT_SPANS, &sv->fd_spans);
	if (sv->fd_requests != -1 && !reqlog_followers(sv->fd_requests, 0)) /* their connections are gone */
		log_warn("cannot write to the request log: %s", strerror(errno));
	sv->started_us = number(doc, "started_us");
	sv->started_real_us = number(doc, "started_real_us");
	sv->incarnation = (uint64_t)number(doc, "incarnation");
	sv->conf_generation = (uint64_t)number(doc, "conf_generation");
	sv->unix_path = text_of(doc, "unix_path");
	sv->ctl_path = text_of(doc, "ctl_path");
	sv->data_dir = text_of(doc, "data_dir");
	sv->unlink_unix = json_is_true(json_object_get(doc, "unlink_unix"));
	sv->unix_inode = (uint64_t)number(doc, "unix_inode");
	sv->ctl_inode = (uint64_t)number(doc, "ctl_inode");
	if (json_is_string(json_object_get(doc, "path"))) {
		free(sv->program); /* /proc/self/exe of a file that was replaced says nothing useful */
		sv->program = text_of(doc, "path");
	}
	char *tcp = text_of(doc, "tcp_address"), *tls = text_of(doc, "tls_address");
	snprintf(sv->tcp_address, sizeof(sv->tcp_address), "%s", tcp);
	snprintf(sv->tls_address, sizeof(sv->tls_address), "%s", tls);
	free(tcp);
	free(tls);
	return true;
}

bool handover_adopt_children(struct supervisor *sv, json_t *doc, char **error_r)
{
	json_t *v;
	size_t i;
	json_array_foreach (json_object_get(doc, "children"), i, v)
		if (!adopt_child(sv, v))
			return util_error(error_r, "the hand-over document has an impossible worker");
	return true;
}
