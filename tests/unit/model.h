/* What the models of both indexes share: random numbers that repeat, and ids made of numbers. */
#ifndef ORC_TEST_MODEL_H
#define ORC_TEST_MODEL_H
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "shm.h"
#include "uuid.h"

static uint64_t model_rng = 0x9e3779b97f4a7c15ull;

static inline uint32_t model_next(void)
{
	model_rng ^= model_rng << 13;
	model_rng ^= model_rng >> 7;
	model_rng ^= model_rng << 17;
	return (uint32_t)(model_rng >> 16);
}

/* Ids do not ascend with the numbers, so that ties show whether they are broken by id. */
static inline struct uuid model_id(uint32_t n)
{
	struct uuid id = {{0x01, 0x93, 0, 0, 0, 0, 0x70, 0, 0x80}};
	uint32_t mixed = n * 2654435761u;
	for (int i = 0; i < 4; i++) {
		id.b[15 - i] = (uint8_t)(n >> (8 * i));
		id.b[5 - i] = (uint8_t)(mixed >> (8 * i));
	}
	return id;
}

static inline uint32_t model_number(const struct uuid *id)
{
	return (uint32_t)id->b[12] << 24 | (uint32_t)id->b[13] << 16 | (uint32_t)id->b[14] << 8 | id->b[15];
}
#endif
