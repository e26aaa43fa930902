/* Secrets do not reach a sink, whatever is formatted: values that are known (passwords of the configuration), and what looks
 * like one: passwords in URLs and connection strings, Authorization headers, bearer tokens, JWTs, values of
 * keys with such names. Each is replaced by "(secret)". */
#ifndef ORC_LOG_REDACT_H
#define ORC_LOG_REDACT_H
#include "util.h"

#define LOG_REDACT_SECRETS 64 /* known at a time; the oldest goes for another one */
#define LOG_REDACT_BYTES 128  /* compared of each; what is longer goes with these */
#define LOG_REDACT_LEAST 4    /* shorter ones would make every line unreadable */

/* This text is a secret from now on, and so are the passwords in it, should it be a URL or a connection string. A
 * path is none: what begins with a slash is left out. */
void log_redact_value(const char *value);
/* The text without its secrets, NUL-terminated, cut to cap - 1 bytes. Returns its length. */
size_t log_redact(char *out, size_t cap, const char *text);
void log_redact_forget(void); /* for tests */
#endif
