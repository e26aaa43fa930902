/* The files behind listen.tls: read here, understood by the api workers (and by --check). */
#define LOG_SUBSYSTEM LOG_IN_TLS
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "http/tls.h"
#include "log.h"
#include "supervisor.h"

static bool refuse(char **error_r, const char *what, const char *why)
{
	if (asprintf(error_r, "%s: %s", what, why) == -1)
		*error_r = NULL;
	return false;
}

/* Whoever can read the key can pretend to be this server. */
static void warn_readable(const char *path)
{
	struct stat st;
	if (stat(path, &st) == 0 && (st.st_mode & S_IROTH))
		log_warn("tls.key: everybody can read %s; chmod 0640 it", path);
}

bool tls_gather(const struct supervisor *sv, const struct conf *c, int *fd_r, char **error_r)
{
	static const enum conf_key needed[] = {CONF_TLS_CERTIFICATE, CONF_TLS_KEY};
	struct tls_files f;
	*fd_r = -1;
	if (sv->fd_tls == -1)
		return true;
	for (size_t i = 0; i < ARRAY_LEN(needed); i++)
		if (!*conf_str(c, needed[i]))
			return refuse(error_r, conf_key_name(needed[i]),
				      "is not set, and there is a TLS socket to speak with it: listen.tls, or one that "
				      "systemd passes");
	bool ok = tls_files_read(c, &f, error_r);
	if (ok) {
		*fd_r = supervisor_high(tls_files_pack(&f));
		ok = *fd_r != -1 || refuse(error_r, "tls: cannot hand on the files", strerror(errno));
		warn_readable(conf_str(c, CONF_TLS_KEY));
	}
	tls_files_free(&f);
	return ok;
}

char *tls_check(const struct conf *c, char **warning_r)
{
	struct tls_files f;
	char *error = NULL, *objection;
	bool certificate = *conf_str(c, CONF_TLS_CERTIFICATE), key = *conf_str(c, CONF_TLS_KEY);
	*warning_r = NULL;
	if (!certificate && !key)
		return NULL;
	if (!certificate || !key) {
		(void)refuse(&error, certificate ? "tls.certificate" : "tls.key",
			     certificate ? "is of no use without tls.key" : "is of no use without tls.certificate");
		return error;
	}
	struct http_tls *t = NULL;
	if (tls_files_read(c, &f, &error))
		t = http_tls_new(&f, strcmp(conf_str(c, CONF_TLS_MIN_VERSION), "1.3") == 0, &error);
	objection = t ? http_tls_objection(t) : NULL;
	if (objection && asprintf(warning_r, "tls.certificate: %s: %s", f.file[TLS_CERTIFICATE].path, objection) == -1)
		*warning_r = NULL;
	free(objection);
	http_tls_free(&t);
	tls_files_free(&f);
	return error;
}
