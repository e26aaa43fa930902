/* For common/log*.c only: a line on its way to the sink. */
#ifndef ORC_LOG_PRIVATE_H
#define ORC_LOG_PRIVATE_H
#include "log.h"

/* What a pipe takes whole or not at all (PIPE_BUF): lines of several processes never mix, and none is torn. */
#define LOG_LINE_BYTES 4096

struct log_line {
	const struct log_site *site;
	const struct log_field *fields; /* redacted by the formatter */
	const char *who, *text;		/* text is redacted and has neither controls nor bytes that are no UTF-8 */
	const struct log_request *request;
	int64_t now_us;
};

/* Makes text fit for a line: controls become blanks (one line stays one line, and a terminal obeys nobody), what is no
 * UTF-8 becomes question marks. */
void log_make_safe(char *s);
/* Bytes written to out, the newline included; never more than LOG_LINE_BYTES. */
size_t log_format_text(const struct log_line *l, char out[LOG_LINE_BYTES]);
size_t log_format_json(const struct log_line *l, char out[LOG_LINE_BYTES]);
/* A message of systemd's native protocol: FIELD=value lines. */
size_t log_format_journal(const struct log_line *l, char out[LOG_LINE_BYTES]);
#endif
