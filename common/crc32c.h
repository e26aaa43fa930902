/* CRC32C (Castagnoli), the checksum of the journal. Chains: crc32c(crc32c(0, a), b) is the sum of
 * a followed by b; start with 0.
 *
 * Chosen once, before main(): the crc32 instruction of SSE4.2 on three interleaved streams, else
 * tables. ORCHESTRA_SIMD=scalar forces the tables (contract.h). */
#ifndef ORC_CRC32C_H
#define ORC_CRC32C_H
#include "util.h"

uint32_t must_check crc32c(uint32_t crc, const void *data, size_t len);
/* The specification of the above: works everywhere, eight table look-ups per eight bytes. */
uint32_t must_check crc32c_portable(uint32_t crc, const void *data, size_t len);
/* True when crc32c() uses the processor's instruction. */
bool crc32c_hardware(void);
#endif
