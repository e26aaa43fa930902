/* Time zones: the files of tzdata (RFC 9636), read without the process's TZ, so that each target has its own and no
 * thread sees another's. A zone does not change once it is read. */
#ifndef ORC_ZONE_H
#define ORC_ZONE_H
#include "util.h"

#define ZONE_FOLDER "/usr/share/zoneinfo"
#define ZONE_NAME_MAX 64

struct zone;

/* "Europe/Berlin" from `folder`; "UTC" needs no file. NULL: *error_r (malloc'ed) says what is the matter and what to do. */
struct zone *must_check zone_open(const char *folder, const char *name, char **error_r);
/* The same from the content of a file; NULL: it is none. */
struct zone *must_check zone_parse(struct span content);
void zone_free(struct zone **z);
/* Seconds to add to UTC for local time at that second since 1970; *until_r: the first later second at which it
 * changes, INT64_MAX: never. */
int32_t zone_offset(const struct zone *z, int64_t utc_s, int64_t *until_r);
#endif
