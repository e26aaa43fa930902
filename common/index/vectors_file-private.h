/* A saved generation, vectors-<seq>.idx: a head, then sections (little-endian). Every byte is
 * under a checksum. Written once, never changed.
 *   head | section head, payload | section head, payload | …
 * Payload of ROWS: versions u64[n], expiries i64[n], ids 16·n, norms f32[n]; of bytes: steps f32[n]; rows.
 * Payload of INCOMPLETE: namespace numbers u64[n] whose vectors did not all fit. */
#ifndef ORC_VECTORS_FILE_PRIVATE_H
#define ORC_VECTORS_FILE_PRIVATE_H
#include "vectors-private.h"

#define FILE_MAGIC 0x3158444956434f0aull
#define FILE_LAYOUT 2
#define FILE_LAYOUT_OLDEST 1 /* which knew floats only, and had 0 where the form is */
#define FILE_PREFIX "vectors-"
#define FILE_SUFFIX ".idx"
#define FILE_TEMP ".tmp"
#define FILE_NAME_MAX 48 /* prefix, 20 digits, suffix, .tmp, NUL */

enum file_kind { FILE_ROWS = 1, FILE_INCOMPLETE = 2 };

struct file_head {
	uint64_t magic;
	uint32_t layout, reserved;
	uint64_t seq, sections, rows, bytes; /* bytes: of the whole file */
	uint64_t check;			     /* XXH3 of what is before it */
};
struct file_section {
	uint32_t kind, dim, n, form;
	uint64_t ns, payload, payload_check;
	uint64_t check; /* XXH3 of what is before it */
};
_Static_assert(sizeof(struct file_head) == 56 && sizeof(struct file_section) == 48, "no padding");

/* Floats without their padding. */
static inline size_t file_row_bytes(uint32_t dim, uint32_t form)
{
	return form == VECTORS_FLOATS ? dim * sizeof(float) : vectors_row_bytes(dim, form);
}
/* Payload of `n` rows. Bounded: n ≤ VECTORS_ROWS_MAX, dim ≤ LIMIT_DIMENSIONS. */
static inline size_t file_rows_bytes(uint32_t n, uint32_t dim, uint32_t form)
{
	return n * (8 + 8 + 16 + 4 + (form == VECTORS_BYTES ? 4 : 0) + file_row_bytes(dim, form));
}
/* The sequence number in a file's name. False: not such a name. */
bool must_check vectors_file_seq(const char *name, uint64_t *seq_r);
void vectors_file_name(char out[FILE_NAME_MAX], uint64_t seq);
#endif
