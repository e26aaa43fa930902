/* The log as the configuration wants it: the same in the supervisor and in every worker. */
#include <unistd.h>

#include "conf.h"
#include "log.h"

void conf_log_level(const struct conf *c)
{
	static const char *const names[] = {"error", "warn", "info", "debug"};
	enum log_level level = LOG_LV_INFO;
	for (unsigned i = 0; i < ARRAY_LEN(names); i++)
		if (strcmp(conf_str(c, CONF_LOG_LEVEL), names[i]) == 0)
			level = (enum log_level)i;
	log_set_level(level);
}

void conf_log_open(const struct conf *c, const char *who)
{
	bool json = strcmp(conf_str(c, CONF_LOG_FORMAT), "json") == 0;
	log_open(who, LOG_LV_INFO, json ? LOG_JSON : LOG_TEXT);
	log_to(strcmp(conf_str(c, CONF_LOG_TARGET), "stdout") == 0 ? STDOUT_FILENO : STDERR_FILENO);
	conf_log_level(c);
}
