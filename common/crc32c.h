/* CRC-32C (Castagnoli, RFC 3720 B.4): hardware where the CPU has it, a table elsewhere. */
#ifndef ORC_CRC32C_H
#define ORC_CRC32C_H
#include "util.h"

/* Continues `crc` (0 to start) over n bytes. */
uint32_t crc32c(uint32_t crc, const void *data, size_t n);
/* The table version, the specification that tests hold the other one to. */
uint32_t crc32c_table(uint32_t crc, const void *data, size_t n);
#endif
