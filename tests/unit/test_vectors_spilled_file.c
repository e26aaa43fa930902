/* What test_vectors_file.c asks of the index, with its rows in a file. */
#define MODEL_FILE (16u << 20)
#include "test_vectors_file.c"
