#include "crc32c.h"

#include <pthread.h>

#define POLY 0x82f63b78u

static uint32_t table[256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint32_t table_crc(uint32_t crc, const void *data, size_t n)
{
	const unsigned char *p = data;
	crc = ~crc;
	while (n--)
		crc = crc >> 8 ^ table[(crc ^ *p++) & 255];
	return ~crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>

/* The instruction has a latency of 3 and a throughput of 1: three streams in step hide it. Their
 * CRCs are joined by multiplying with x^(8·BLOCK) modulo the polynomial, by table. */
#define BLOCK 2048
static uint32_t shift[4][256]; /* shift of a CRC over BLOCK zero bytes, by byte of the CRC */

static uint32_t advance(uint32_t crc)
{
	return shift[0][crc & 255] ^ shift[1][crc >> 8 & 255] ^ shift[2][crc >> 16 & 255] ^ shift[3][crc >> 24];
}

static void make_shift(void)
{
	uint32_t unit[32];
	for (int bit = 0; bit < 32; bit++) {
		uint32_t c = 1u << bit;
		for (int i = 0; i < BLOCK; i++)
			c = c >> 8 ^ table[c & 255];
		unit[bit] = c;
	}
	for (int byte = 0; byte < 4; byte++)
		for (uint32_t v = 0; v < 256; v++) {
			shift[byte][v] = 0;
			for (int bit = 0; bit < 8; bit++)
				if (v >> bit & 1)
					shift[byte][v] ^= unit[byte * 8 + bit];
		}
}

static inline uint64_t load(const unsigned char *p)
{
	uint64_t v;
	memcpy(&v, p, 8);
	return v;
}

__attribute__((target("sse4.2"))) static uint32_t hardware(uint32_t crc, const void *data, size_t n)
{
	const unsigned char *p = data;
	uint64_t a = ~crc;
	for (; n >= 3 * BLOCK; n -= 3 * BLOCK, p += 3 * BLOCK) {
		uint64_t b = 0, c = 0;
		for (int i = 0; i < BLOCK; i += 8) {
			a = _mm_crc32_u64(a, load(p + i));
			b = _mm_crc32_u64(b, load(p + BLOCK + i));
			c = _mm_crc32_u64(c, load(p + 2 * BLOCK + i));
		}
		a = advance((uint32_t)a) ^ b;
		a = advance((uint32_t)a) ^ c;
	}
	for (; n >= 8; n -= 8, p += 8)
		a = _mm_crc32_u64(a, load(p));
	while (n--)
		a = _mm_crc32_u8((uint32_t)a, *p++);
	return ~(uint32_t)a;
}
#endif

static uint32_t (*best)(uint32_t, const void *, size_t) = table_crc;

static void init(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;
		for (int k = 0; k < 8; k++)
			c = c >> 1 ^ (POLY & -(c & 1));
		table[i] = c;
	}
#if defined(__x86_64__)
	if (__builtin_cpu_supports("sse4.2")) {
		make_shift();
		best = hardware;
	}
#endif
}

uint32_t crc32c_table(uint32_t crc, const void *data, size_t n)
{
	pthread_once(&once, init);
	return table_crc(crc, data, n);
}

uint32_t crc32c(uint32_t crc, const void *data, size_t n)
{
	pthread_once(&once, init);
	return best(crc, data, n);
}
