/* The log as the configuration wants it: the same in the supervisor and in every worker. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "conf.h"
#include "log.h"
#include "log_redact.h"

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

void conf_log_secrets(const struct conf *c)
{
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		if (conf_is_secret(c, (enum conf_key)k) && strcmp(conf_source(c, (enum conf_key)k), "default") != 0)
			log_redact_value(conf_str(c, (enum conf_key)k));
}

static enum log_level level_of(const struct conf *c)
{
	static const char *const names[LOG_LEVELS] = {"error", "warn", "info", "debug"};
	for (unsigned i = 0; i < ARRAY_LEN(names); i++)
		if (strcmp(conf_str(c, CONF_LOG_LEVEL), names[i]) == 0)
			return (enum log_level)i;
	return LOG_LV_INFO;
}

void conf_log_level(const struct conf *c)
{
	uint8_t levels[LOG_SUBSYSTEMS];
	char *error = NULL;
	conf_log_secrets(c);
	if (!log_levels_parse(conf_str(c, CONF_LOG_LEVELS), level_of(c), levels, &error)) {
		free(error); /* of another version of the program */
		log_set_level(level_of(c));
	} else {
		log_levels_set(levels);
	}
	log_set_rate((unsigned)conf_int(c, CONF_LOG_RATE));
}

static const char *journal_of(const struct conf *c)
{
	const char *target = conf_str(c, CONF_LOG_TARGET);
	return strncmp(target, "journal:", 8) == 0 ? target + 8 : JOURNAL_SOCKET;
}

void conf_log_open(const struct conf *c, const char *who, int fd)
{
	bool json = strcmp(conf_str(c, CONF_LOG_FORMAT), "json") == 0;
	log_open(who, LOG_LV_INFO, json ? LOG_JSON : LOG_TEXT);
	log_to(fd, journal_of(c));
	conf_log_level(c);
}

/* systemd says in JOURNAL_STREAM which file its journal is: it may have been passed on to who writes elsewhere. */
static bool leads_to_journal(int fd)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;
	return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(fd, &st) == 0 &&
	       st.st_dev == device && st.st_ino == inode;
}

/* A pipe or a terminal that others write to as well keeps waiting for them: we open it for ourselves. Files of the disk are
 * used as they are: whoever else has them open may write at his own place in them. */
static int own(int fd)
{
	char path[32];
	struct stat st;
	int opened = -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fstat(fd, &st) == 0 && (S_ISFIFO(st.st_mode) || (S_ISCHR(st.st_mode) && isatty(fd))))
		opened = open(path, O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return opened != -1 ? opened : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

int conf_log_target(const struct conf *c, bool again, char **error_r)
{
	const char *target = conf_str(c, CONF_LOG_TARGET);
	bool automatic = strcmp(conf_str(c, CONF_LOG_FORMAT), "auto") == 0;
	int standard = strcmp(target, "stdout") == 0 ? STDOUT_FILENO : STDERR_FILENO, fd = -1;
	*error_r = NULL;
	if (*target == '/') {
		/* A FIFO without a reader is an error rather than a wait. */
		fd = open(target, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0640);
		if (fd == -1)
			(void)util_error(
				error_r,
				"log.target: cannot open %s: %s; make it writable for uid %d, or choose another "
				"log.target",
				target, strerror(errno), (int)geteuid());
		return fd;
	}
	if (again)
		return -1;
	bool found = automatic && leads_to_journal(standard) && access(JOURNAL_SOCKET, W_OK) == 0;
	if (found || strncmp(target, "journal", 7) == 0)
		fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	return fd != -1 ? fd : own(standard);
}
