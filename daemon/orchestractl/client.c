/* HTTP over the daemon's Unix socket, and lines over PATH.ctl. */
#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ctl.h"

#define STARTING_PAUSE_US 100000 /* between questions to a daemon that is starting … */
#define STARTING_TRIES 100	 /* … for 10 s */
#define ANSWER_MAX (256u << 20)	 /* buffered answers; streams are not limited */

struct transfer {
	CURL *easy;
	struct answer *answer;
	FILE *file; /* streamed to (download) or from (upload); NULL: neither */
	client_piece_fn *on_piece;
	void *arg;
	int error; /* errno of the file */
};

/* A download goes to its file only when it is a success: a problem belongs in the answer. */
static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	n *= size;
	if (t->answer->status == 0)
		curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &t->answer->status);
	if (t->file && t->answer->status == 200) {
		if (fwrite(p, 1, n, t->file) != n) {
			t->error = errno;
			return 0;
		}
		if (t->on_piece)
			t->on_piece(t->arg, p, n);
		return n;
	}
	if (t->answer->body.len + n > ANSWER_MAX)
		return 0;
	buf_add(&t->answer->body, p, n);
	return n;
}

static size_t on_read(char *p, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	size_t got = fread(p, 1, size * n, t->file);
	if (got == 0 && ferror(t->file)) {
		t->error = errno;
		return CURL_READFUNC_ABORT;
	}
	if (t->on_piece)
		t->on_piece(t->arg, p, got);
	return got;
}

static int explain(const struct ctl *c, const struct transfer *t, CURLcode rc)
{
	if (t->error) {
		ctl_broken_pipe(t->error);
		fprintf(stderr, "orchestractl: %s\n", strerror(t->error));
		return CTL_FAILED;
	}
	if (rc == CURLE_COULDNT_CONNECT) {
		if (!c->quiet)
			fprintf(stderr,
				"orchestractl: no daemon answers on %s; is orchestrad running? "
				"(--socket names another)\n",
				c->socket);
		return CTL_UNREACHABLE;
	}
	if (!c->quiet)
		fprintf(stderr, "orchestractl: the connection to %s broke: %s\n", c->socket, curl_easy_strerror(rc));
	return t->answer->status ? CTL_FAILED : CTL_UNREACHABLE;
}

static CURLSH *connections(void)
{
	static CURLSH *share;
	if (!share) {
		share = curl_share_init();
		AN(share);
		curl_share_setopt(share, CURLSHOPT_SHARE, CURL_LOCK_DATA_CONNECT);
	}
	return share;
}

static CURL *prepare(struct ctl *c, const char *path, struct transfer *t)
{
	struct buf url = {0};
	static bool begun;
	if (!begun)
		curl_global_init(CURL_GLOBAL_NOTHING);
	begun = true;
	t->easy = curl_easy_init();
	AN(t->easy);
	buf_adds(&url, c->url ? c->url : "http://localhost");
	while (url.len && url.p[url.len - 1] == '/')
		url.len--;
	buf_adds(&url, path);
	buf_addc(&url, '\0');
	curl_easy_setopt(t->easy, CURLOPT_URL, url.p);
	if (!c->url)
		curl_easy_setopt(t->easy, CURLOPT_UNIX_SOCKET_PATH, c->socket);
	if (c->url && c->cacert)
		curl_easy_setopt(t->easy, CURLOPT_CAINFO, c->cacert);
	curl_easy_setopt(t->easy, CURLOPT_TIMEOUT_MS, c->timeout_ms);
	if (c->keep_open)
		curl_easy_setopt(t->easy, CURLOPT_SHARE, connections());
	curl_easy_setopt(t->easy, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(t->easy, CURLOPT_PROTOCOLS_STR, c->url ? "http,https" : "http");
	curl_easy_setopt(t->easy, CURLOPT_USERAGENT, "orchestractl");
	curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, t);
	buf_free(&url);
	return t->easy;
}

static int perform(struct ctl *c, struct transfer *t, struct curl_slist *headers)
{
	headers = curl_slist_append(headers, "Expect:");
	if (c->authorization)
		headers = curl_slist_append(headers, c->authorization);
	curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, headers);
	CURLcode rc = curl_easy_perform(t->easy);
	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &t->answer->status);
	int code = CTL_OK;
	/* A server may answer an upload before it has read it all, and close. */
	bool early = rc == CURLE_SEND_ERROR && t->answer->status >= 400;
	if (rc != CURLE_OK && !early)
		code = explain(c, t, rc);
	buf_addc(&t->answer->body, '\0');
	t->answer->body.len--;
	curl_slist_free_all(headers);
	curl_easy_cleanup(t->easy);
	return code;
}

static int request_once(struct ctl *c, const char *method, const char *path, const char *body, struct answer *a)
{
	struct curl_slist *headers = NULL;
	struct transfer t = {.answer = a};
	*a = (struct answer){0};
	CURL *e = prepare(c, path, &t);
	curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, method);
	if (body) {
		headers = curl_slist_append(headers, "Content-Type: application/json");
		curl_easy_setopt(e, CURLOPT_POSTFIELDS, body);
		curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
	} else if (strcmp(method, "POST") == 0) {
		curl_easy_setopt(e, CURLOPT_POSTFIELDS, "");
		curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE, 0L);
	}
	return perform(c, &t, headers);
}

/* A daemon that has just been started is waited for: it has done nothing yet with what it was asked. */
int client_request(struct ctl *c, const char *method, const char *path, const char *body, struct answer *a)
{
	int code = request_once(c, method, path, body, a);
	for (int i = 0; i < STARTING_TRIES && code == CTL_OK && a->status == 503 && !c->quiet &&
			strstr(a->body.p, "problem:starting\"");
	     i++) {
		client_free(a);
		usleep(STARTING_PAUSE_US);
		code = request_once(c, method, path, body, a);
	}
	return code;
}

int client_download(struct ctl *c, const char *path, FILE *out, client_piece_fn *on_piece, void *arg, struct answer *a)
{
	struct transfer t = {.answer = a, .file = out, .on_piece = on_piece, .arg = arg};
	*a = (struct answer){0};
	prepare(c, path, &t);
	return perform(c, &t, NULL);
}

int client_upload(struct ctl *c, const char *path, FILE *in, client_piece_fn *on_piece, void *arg, struct answer *a)
{
	struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/x-ndjson");
	struct transfer reading = {.file = in, .on_piece = on_piece, .arg = arg, .answer = a};
	struct transfer t = {.answer = a};
	*a = (struct answer){0};
	CURL *e = prepare(c, path, &t);
	headers = curl_slist_append(headers, "Transfer-Encoding: chunked");
	curl_easy_setopt(e, CURLOPT_POST, 1L);
	curl_easy_setopt(e, CURLOPT_READFUNCTION, on_read);
	curl_easy_setopt(e, CURLOPT_READDATA, &reading);
	curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, 256L * 1024);
	int code = perform(c, &t, headers);
	if (reading.error)
		fprintf(stderr, "orchestractl: cannot read: %s\n", strerror(reading.error));
	return reading.error ? CTL_FAILED : code;
}

void client_free(struct answer *a)
{
	buf_free(&a->body);
	*a = (struct answer){0};
}

char *client_escape(const char *text)
{
	struct buf b = {0};
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		bool plain = (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			     strchr("-._~", *p);
		if (plain)
			buf_addc(&b, (char)*p);
		else
			buf_printf(&b, "%%%02X", *p);
	}
	buf_addc(&b, '\0');
	return b.p;
}

char *client_path(const char *path, const char *const (*pairs)[2], size_t n)
{
	struct buf b = {0};
	char sep = '?';
	buf_adds(&b, path);
	for (size_t i = 0; i < n; i++) {
		if (!pairs[i][1])
			continue;
		char *value = client_escape(pairs[i][1]);
		buf_printf(&b, "%c%s=%s", sep, pairs[i][0], value);
		sep = '&';
		free(value);
	}
	buf_addc(&b, '\0');
	return b.p;
}

/* A token in clear text is for everybody on the way to read. */
static bool is_loopback_url(const char *url)
{
	static const char *const hosts[] = {"127.0.0.1", "localhost", "[::1]"};
	const char *host = strstr(url, "://") + 3;
	size_t n = strcspn(host, "/");
	if (memchr(host, '@', n))
		return false;
	for (size_t i = 0; i < ARRAY_LEN(hosts); i++) {
		size_t len = strlen(hosts[i]);
		if (strncmp(host, hosts[i], len) == 0 && (host[len] == ':' || host[len] == '/' || !host[len]))
			return true;
	}
	return false;
}

int client_aim(struct ctl *c, const char *name)
{
	bool url = strstr(name, "://"), https = strncmp(name, "https://", 8) == 0;
	if (url && !https && strncmp(name, "http://", 7) != 0)
		return ctl_usage("%s: expected a Unix socket, http://HOST:PORT or https://HOST:PORT", name);
	if (url && !https && c->authorization && !is_loopback_url(name))
		return ctl_usage("%s: the token would go over the network in clear text; use https://", name);
	c->socket = name;
	c->url = url ? name : NULL;
	return CTL_OK;
}

/* ---- PATH.ctl ---- */

int client_control_open(const struct ctl *c)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int len = snprintf(un.sun_path, sizeof(un.sun_path), "%s.ctl", c->socket);
	int fd = len < (int)sizeof(un.sun_path) ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
	if (fd != -1 && connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0)
		return fd;
	int error = errno;
	if (c->quiet)
		;
	else if (error == ENOENT || error == ECONNREFUSED)
		fprintf(stderr,
			"orchestractl: no daemon answers on %s; is orchestrad running? "
			"(--socket names another)\n",
			c->socket);
	else
		fprintf(stderr, "orchestractl: no daemon answers on %s, nor its supervisor on %s.ctl: %s\n", c->socket,
			c->socket, strerror(error));
	if (fd != -1)
		close(fd);
	return -1;
}

int client_control(struct ctl *c, const char *line, bool until_gone, struct answer *a)
{
	char piece[4096];
	ssize_t n = 0;
	*a = (struct answer){0};
	int fd = client_control_open(c);
	if (fd == -1)
		return CTL_UNREACHABLE;
	if (dprintf(fd, "%s\n", line) < 0)
		n = -1;
	while (n >= 0 && (until_gone || !memchr(a->body.p ? a->body.p : "", '\n', a->body.len))) {
		n = read(fd, piece, sizeof(piece));
		if (n <= 0)
			break;
		buf_add(&a->body, piece, (size_t)n);
	}
	close(fd);
	if (a->body.len && a->body.p[a->body.len - 1] == '\n')
		a->body.len--;
	buf_addc(&a->body, '\0');
	a->body.len--;
	if (a->body.len == 0) {
		fprintf(stderr, "orchestractl: the supervisor did not answer\n");
		return CTL_UNREACHABLE;
	}
	a->status = strstr(a->body.p, "\"ok\":false") ? 500 : 200;
	return CTL_OK;
}

int client_show(struct ctl *c, const char *method, const char *path, const char *body,
		void (*show)(struct ctl *c, const json_t *o))
{
	struct answer a;
	int code = client_request(c, method, path, body, &a);
	if (code == CTL_OK && c->json)
		output_raw(&a);
	if (code == CTL_OK && a.status != 200) {
		code = c->json ? CTL_FAILED : output_problem(&a);
	} else if (code == CTL_OK && !c->json) {
		json_t *o = output_parse(&a);
		if (o)
			show(c, o);
		code = o ? CTL_OK : CTL_FAILED;
		json_decref(o);
	}
	client_free(&a);
	return code;
}

/* 404: an api that does not relay this verb. 401: we have no token; the supervisor's own socket lets in who owns the daemon. What
 * the first try complains about is of no interest when the second works, and said by it when not. */
int client_ask(struct ctl *c, long patience_ms, const char *method, const char *path, const char *body,
	       const char *line, struct answer *a)
{
	if (c->url)
		return client_request(c, method, path, body, a);
	c->quiet = true;
	c->timeout_ms = patience_ms;
	int code = client_request(c, method, path, body, a);
	c->quiet = false;
	c->timeout_ms = 0;
	if (code == CTL_OK && a->status != 401 && a->status != 404 && a->status != 503)
		return CTL_OK;
	client_free(a);
	return client_control(c, line, false, a);
}
