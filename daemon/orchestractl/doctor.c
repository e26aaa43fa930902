/* orchestractl doctor: asks everything that tells how the daemon is, twice with a second between, and says what it makes of
 * that. A daemon that does not answer is looked for: its socket, its configuration, its supervisor. */
#include "doctor.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "version.h"

#define BETWEEN_US 1000000
#define PATIENCE_MS 5000

/* ---- asking ---- */

static json_t *answer_json(int code, struct answer *a)
{
	json_t *o = code == CTL_OK && (a->status == 200 || a->status == 503)
			    ? json_loadb(a->body.p, a->body.len, 0, NULL)
			    : NULL;
	client_free(a);
	return o;
}

static json_t *ask(struct ctl *c, const char *path)
{
	struct answer a;
	return answer_json(client_request(c, "GET", path, NULL, &a), &a);
}

/* 0, or errno of a try to connect. */
static int knock(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(sa.sun_path))
		return ENAMETOOLONG;
	memcpy(sa.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc = fd == -1 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) ? errno : 0;
	if (fd != -1)
		close(fd);
	return rc;
}

/* The supervisor itself, when no api worker answers. */
static json_t *ask_supervisor(struct ctl *c)
{
	struct answer a;
	char *path = NULL;
	if (asprintf(&path, "%s.ctl", c->socket) == -1)
		return NULL;
	int rc = knock(path);
	free(path);
	return rc ? NULL : answer_json(client_control(c, "status", false, &a), &a);
}

/* ---- a daemon that does not answer ---- */

static void examine_silence(struct doctor *d, const char *socket, const json_t *supervisor)
{
	struct stat st;
	if (supervisor) {
		doctor_add(d, DOCTOR_PROBLEM, "service", "wait a moment; the log says why the api workers die",
			   "the supervisor lives (pid %lld), but no api worker answers",
			   (long long)json_integer_value(json_object_get(supervisor, "pid")));
		return;
	}
	if (stat(socket, &st) == -1) {
		doctor_add(
			d, DOCTOR_PROBLEM, "service",
			errno == EACCES
				? "ask as a user who may look there"
				: "start it (systemctl start orchestra, or orchestrad), or name its socket with --socket",
			"%s: %s", socket,
			errno == ENOENT ? "there is no such socket: no daemon runs here" : strerror(errno));
		return;
	}
	int rc = knock(socket);
	if (rc == ECONNREFUSED)
		doctor_add(d, DOCTOR_PROBLEM, "service", "start it again; its log, and dmesg, say how it ended",
			   "%s: nobody listens there any more: the daemon has died", socket);
	else if (rc == EACCES || rc == EPERM)
		doctor_add(d, DOCTOR_PROBLEM, "service", "ask as its user, or as a member of its group",
			   "%s: this user may not connect", socket);
	else if (rc)
		doctor_add(d, DOCTOR_PROBLEM, "service", "is this the daemon's socket?", "%s: %s", socket,
			   strerror(rc));
	else
		doctor_add(d, DOCTOR_PROBLEM, "service",
			   "see \"orchestractl top\" and the log: is the machine overloaded?",
			   "%s: connections are taken, but no answer comes within %d s", socket, PATIENCE_MS / 1000);
}

/* ---- showing ---- */

static const char *const level_names[DOCTOR_LEVELS] = {"fine", "note", "warning", "problem"};

static void show(struct ctl *c, const struct doctor *d)
{
	static const char *const marks[DOCTOR_LEVELS] = {"✓", "·", "!", "✗"};
	static const enum colour colours[DOCTOR_LEVELS] = {C_GREEN, C_DIM, C_YELLOW, C_RED};
	size_t count[DOCTOR_LEVELS] = {0};
	for (int level = DOCTOR_PROBLEM; level >= 0; level--) {
		for (size_t i = 0; i < d->n; i++) {
			const struct doctor_finding *f = &d->v[i];
			if ((int)f->level != level)
				continue;
			count[level]++;
			printf("%s%s %-11s%s ", output_colour(c, colours[level]), marks[level], f->subject,
			       output_colour(c, C_PLAIN));
			output_line(f->what, 0);
			putchar('\n');
			if (f->remedy)
				printf("%15s%s\n", "→ ", f->remedy);
		}
	}
	if (count[DOCTOR_PROBLEM] || count[DOCTOR_WARNING])
		printf("\n%zu problem%s, %zu warning%s\n", count[DOCTOR_PROBLEM], count[DOCTOR_PROBLEM] == 1 ? "" : "s",
		       count[DOCTOR_WARNING], count[DOCTOR_WARNING] == 1 ? "" : "s");
	else
		printf("\n%sall is well%s\n", output_colour(c, C_GREEN), output_colour(c, C_PLAIN));
}

static void show_json(const struct doctor *d)
{
	json_t *all = json_array();
	for (size_t i = 0; i < d->n; i++) {
		const struct doctor_finding *f = &d->v[i];
		json_t *o = json_pack("{s:s s:s s:s}", "level", level_names[f->level], "subject", f->subject, "what",
				      f->what);
		if (f->remedy)
			json_object_set_new(o, "remedy", json_string(f->remedy));
		json_array_append_new(all, o);
	}
	json_t *o = json_pack("{s:o}", "findings", all);
	json_dumpf(o, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(o);
}

/* ---- the command ---- */

/* False: no answer came. */
static bool examine(struct doctor *d, struct ctl *c)
{
	struct doctor_view v = {.version = PACKAGE_VERSION, .now_s = clock_real_us() / 1000000};
	c->quiet = true;
	c->timeout_ms = PATIENCE_MS;
	json_t *ready = ask(c, "/readyz"), *status = ready ? ask(c, "/v1/admin/status") : NULL, *breakers = NULL;
	struct scrape *from = NULL, *to = NULL;
	if (!ready) {
		json_t *supervisor = ask_supervisor(c);
		examine_silence(d, c->socket, supervisor);
		v.status = supervisor;
		doctor_examine(d, &v);
		json_decref(supervisor);
		return false;
	}
	breakers = ask(c, "/v1/admin/breakers");
	if (!status || !breakers)
		doctor_add(d, DOCTOR_NOTE, "service", "ask with a token that has the right admin: --token-file FILE",
			   "it tells us little, as this caller is no admin");
	from = scrape_read(c);
	usleep(BETWEEN_US);
	to = from ? scrape_read(c) : NULL;
	v.status = status;
	v.ready = ready;
	v.breakers = breakers;
	v.from = to ? from : NULL;
	v.to = to;
	doctor_examine(d, &v);
	scrape_free(&from);
	scrape_free(&to);
	json_decref(ready);
	json_decref(status);
	json_decref(breakers);
	return true;
}

int doctor_command(struct ctl *c, int argc, char **argv)
{
	struct doctor d = {0};
	bool ill = false;
	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		puts("Usage: orchestractl doctor\n"
		     "Looks at the daemon for a second, and says what is wrong and what to do about it.\n"
		     "Exit status: 1 there is a problem, 3 the daemon does not answer.");
		return CTL_OK;
	}
	if (argc > 1)
		return ctl_usage("doctor: unexpected \"%s\"", argv[1]);
	bool answers = examine(&d, c);
	for (size_t i = 0; i < d.n; i++)
		ill |= d.v[i].level == DOCTOR_PROBLEM;
	if (c->json)
		show_json(&d);
	else
		show(c, &d);
	doctor_free(&d);
	return !answers ? CTL_UNREACHABLE : ill ? CTL_FAILED : CTL_OK;
}
