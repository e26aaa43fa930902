/* What test_vectors_step.c asks of the index, with its rows in a file. */
#define MODEL_FILE (256u << 10)
#define EVERY 7
#include "test_vectors_step.c"
