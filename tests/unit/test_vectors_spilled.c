/* What test_vectors.c asks of the index, with its rows in a file. */
#define MODEL_FILE (16u << 20)
#include "test_vectors.c"
