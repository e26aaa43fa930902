/* The process tree for people: what the supervisor knows, and CPU and memory from /proc. */
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "upgrade.h"
#include "version.h"
#include "worker.h"
#include "tried.h"

/* utime + stime in seconds and resident bytes; false when the process is gone. */
static bool usage(pid_t pid, double *cpu_r, int64_t *rss_r)
{
	char path[64], text[1024];
	unsigned long utime, stime;
	long rss;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	size_t n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = '\0';
	const char *rest = strrchr(text, ')'); /* the name may hold anything */
	if (!rest || sscanf(rest + 1,
			    " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d "
			    "%*d %*d %*d %*d %*u %*u %ld",
			    &utime, &stime, &rss) != 3)
		return false;
	*cpu_r = (double)(utime + stime) / (double)sysconf(_SC_CLK_TCK);
	*rss_r = (int64_t)rss * sysconf(_SC_PAGESIZE);
	return true;
}

static void add_usage(json_t *o, pid_t pid)
{
	double cpu;
	int64_t rss;
	if (!pid || !usage(pid, &cpu, &rss))
		return;
	json_object_set_new(o, "cpu_seconds", json_real(cpu));
	json_object_set_new(o, "rss_bytes", json_integer(rss));
}

static json_t *time_text(int64_t real_us)
{
	char text[CLOCK_TEXT];
	clock_format(real_us, text);
	return json_stringn(text, sizeof(text));
}

/* As of its last heartbeat. */
static void add_load(json_t *o, const struct child *c)
{
	const struct vitals_slot *v = &c->sv->vitals->slot[c->slot];
	if (!c->pid || atomic_load_explicit(&v->incarnation, memory_order_acquire) != c->incarnation)
		return;
	json_object_set_new(o, "waiting", json_integer((json_int_t)atomic_load(&v->waiting)));
	json_object_set_new(o, "working", json_integer((json_int_t)atomic_load(&v->working)));
}

static json_t *worker(const struct child *c)
{
	int64_t now = clock_mono_us();
	json_t *o = json_pack("{s:s s:s s:i s:s s:I}", "name", c->name, "role",
			      worker_rows[worker_role_of_slot(c->slot)].name, "slot", (int)c->slot, "state",
			      child_state_name(c->state), "restarts", (json_int_t)c->restarts);
	if (c->pid) {
		json_object_set_new(o, "pid", json_integer(c->pid));
		json_object_set_new(o, "incarnation", json_integer((json_int_t)c->incarnation));
		json_object_set_new(o, "uptime_seconds", json_real((double)(now - c->spawned_us) / 1e6));
	}
	if (c->last_exit[0]) {
		json_object_set_new(o, "last_exit", json_string(c->last_exit));
		json_object_set_new(o, "last_exit_at", time_text(c->last_exit_us));
	}
	if (c->last_words[0])
		json_object_set_new(o, "last_words", json_string(c->last_words));
	add_load(o, c);
	add_usage(o, c->pid);
	return o;
}

json_t *status_conf_file(const struct supervisor *sv)
{
	const char *file = conf_file_of(&sv->input);
	char path[PATH_MAX];
	json_t *o = file && realpath(file, path) ? json_string(path) : NULL;
	return o ? o : json_null();
}

char *status_json(struct supervisor *sv)
{
	static const char *const states[] = {"starting", "running", "draining"};
	json_t *workers = json_array(), *o;
	for (struct child *c = NULL; (c = child_next(sv, c));)
		json_array_append_new(workers, worker(c));
	o = json_pack("{s:b s:s s:s s:i s:f s:s s:s s:s s:I s:o}", "ok", 1, "version", PACKAGE_VERSION, "state",
		      states[sv->state], "pid", (int)getpid(), "uptime_seconds",
		      (double)(clock_mono_us() - sv->started_us) / 1e6, "tcp", sv->tcp_address, "unix", sv->unix_path,
		      "data_dir", sv->data_dir, "conf_generation", (json_int_t)sv->conf_generation, "workers", workers);
	AN(o);
	if (upgrade_active(sv))
		json_object_set_new(o, "upgrade", json_string(upgrade_phase(sv)));
	if (sv->tls_address[0])
		json_object_set_new(o, "tls", json_string(sv->tls_address));
	json_object_set_new(o, "config_file", status_conf_file(sv));
	json_object_set_new(o, "tried", tried_json(sv));
	json_object_set_new(o, "started_at", time_text(sv->started_real_us));
	add_usage(o, getpid());
	char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(15)); /* 0.06, not 0.059999999999999998 */
	json_decref(o);
	AN(text);
	return text;
}
