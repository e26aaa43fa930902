#include "crc32c.h"

#include <stdlib.h>

#include "contract.h"

#define POLY 0x82f63b78u /* Castagnoli, reflected */

/* table[k][b]: the CRC of byte b followed by k zero bytes. */
static uint32_t table[8][256];

static uint64_t load64(const unsigned char *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof(v));
	return v;
}

static void make_table(void)
{
	for (uint32_t b = 0; b < 256; b++) {
		uint32_t c = b;
		for (int i = 0; i < 8; i++)
			c = c & 1 ? c >> 1 ^ POLY : c >> 1;
		table[0][b] = c;
	}
	for (uint32_t b = 0; b < 256; b++)
		for (int k = 1; k < 8; k++)
			table[k][b] = table[k - 1][b] >> 8 ^ table[0][table[k - 1][b] & 0xff];
}

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t len)
{
	const unsigned char *p = data;
	uint32_t c = ~crc;
	for (; len >= 8; len -= 8, p += 8) {
		uint64_t v = load64(p) ^ c;
		c = table[7][v & 0xff] ^ table[6][v >> 8 & 0xff] ^ table[5][v >> 16 & 0xff] ^ table[4][v >> 24 & 0xff] ^
		    table[3][v >> 32 & 0xff] ^ table[2][v >> 40 & 0xff] ^ table[1][v >> 48 & 0xff] ^ table[0][v >> 56];
	}
	for (; len; len--)
		c = c >> 8 ^ table[0][(c ^ *p++) & 0xff];
	return ~c;
}

#if defined(__x86_64__)
#include <nmmintrin.h>

/* The instruction takes 3 cycles and one can start in every cycle: three independent streams, each
 * `part` bytes long, keep it busy. The sums of the first two are then moved over the bytes that
 * follow them. A CRC without its inversions is linear, so "append n zero bytes" is a 32×32 bit
 * matrix, kept as four tables of 256 (one for each byte of the sum). */
#define LONG_PART 1024
#define SHORT_PART 128
static uint32_t over_long[4][256], over_short[4][256];

static uint32_t over(const uint32_t zeros[4][256], uint32_t c)
{
	return zeros[0][c & 0xff] ^ zeros[1][c >> 8 & 0xff] ^ zeros[2][c >> 16 & 0xff] ^ zeros[3][c >> 24];
}

static void make_over(uint32_t zeros[4][256], size_t part)
{
	uint32_t bit[32];
	for (int i = 0; i < 32; i++) {
		uint32_t c = 1u << i;
		for (size_t n = 0; n < part; n++)
			c = c >> 8 ^ table[0][c & 0xff];
		bit[i] = c;
	}
	for (int k = 0; k < 4; k++)
		for (uint32_t b = 0; b < 256; b++) {
			zeros[k][b] = 0;
			for (int i = 0; i < 8; i++)
				if (b >> i & 1)
					zeros[k][b] ^= bit[8 * k + i];
		}
}

__attribute__((target("sse4.2"))) static uint32_t three_streams(uint32_t crc, const unsigned char *p, size_t part,
								const uint32_t zeros[4][256])
{
	uint64_t a = crc, b = 0, c = 0;
	for (size_t i = 0; i < part; i += 8) {
		a = _mm_crc32_u64(a, load64(p + i));
		b = _mm_crc32_u64(b, load64(p + part + i));
		c = _mm_crc32_u64(c, load64(p + 2 * part + i));
	}
	return over(zeros, over(zeros, (uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
}

__attribute__((target("sse4.2"))) static uint32_t with_sse42(uint32_t crc, const void *data, size_t len)
{
	const unsigned char *p = data;
	uint32_t c = ~crc;
	for (; len >= 3 * LONG_PART; len -= 3 * LONG_PART, p += 3 * LONG_PART)
		c = three_streams(c, p, LONG_PART, over_long);
	for (; len >= 3 * SHORT_PART; len -= 3 * SHORT_PART, p += 3 * SHORT_PART)
		c = three_streams(c, p, SHORT_PART, over_short);
	for (; len >= 8; len -= 8, p += 8)
		c = (uint32_t)_mm_crc32_u64(c, load64(p));
	for (; len; len--)
		c = _mm_crc32_u8(c, *p++);
	return ~c;
}
#endif

static uint32_t (*chosen)(uint32_t, const void *, size_t) = crc32c_portable;

/* Before main(), when there is one thread: no reader ever sees a half-made table. */
__attribute__((constructor)) static void choose(void)
{
	const char *simd = getenv(ENV_SIMD);
	make_table();
#if defined(__x86_64__)
	__builtin_cpu_init();
	if (__builtin_cpu_supports("sse4.2") && !(simd && strcmp(simd, "scalar") == 0)) {
		make_over(over_long, LONG_PART);
		make_over(over_short, SHORT_PART);
		chosen = with_sse42;
	}
#else
	(void)simd;
#endif
}

uint32_t crc32c(uint32_t crc, const void *data, size_t len) { return chosen(crc, data, len); }
bool crc32c_hardware(void) { return chosen != crc32c_portable; }
