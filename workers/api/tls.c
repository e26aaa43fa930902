/* The certificate of the TLS socket: at birth, and again at every reload. */
#define LOG_SUBSYSTEM LOG_IN_TLS
#include <stdlib.h>
#include <unistd.h>

#include "api.h"
#include "http/tls.h"
#include "log.h"

/* Once for the daemon, not once for each worker. */
static void say(const struct api *a, const struct http_tls *t, const struct conf *c)
{
	struct buf b = {0};
	char *objection = http_tls_objection(t);
	if (a->w->instance == 0) {
		http_tls_describe(t, &b);
		log_info("TLS from %s: %.*s", conf_str(c, CONF_TLS_CERTIFICATE), (int)b.len, b.p);
		if (objection)
			log_warn("tls.certificate: %s: %s", conf_str(c, CONF_TLS_CERTIFICATE), objection);
	}
	free(objection);
	buf_free(&b);
}

bool tls_prepare(struct api *a, const struct conf *c, struct http_tls **tls_r, char **error_r)
{
	struct worker *w = a->w;
	struct tls_files f = {0};
	struct span none = SPAN_LIT("the supervisor handed on no certificate");
	*tls_r = NULL;
	if (w->fd_tls == -1)
		return true;
	if (w->fd_tls_files != -1 && tls_files_unpack(w->fd_tls_files, c, &f))
		*tls_r = http_tls_new(&f, strcmp(conf_str(c, CONF_TLS_MIN_VERSION), "1.3") == 0, error_r);
	else
		*error_r = util_strndup(none.p, none.len);
	tls_files_free(&f);
	if (w->fd_tls_files != -1)
		close(w->fd_tls_files);
	w->fd_tls_files = -1;
	return *tls_r;
}

void tls_commit(struct api *a, struct http_tls **tls)
{
	if (!*tls)
		return;
	say(a, *tls, a->w->conf);
	http_server_set_tls(a->http, *tls);
	*tls = NULL;
}
