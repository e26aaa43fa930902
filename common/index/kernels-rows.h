/* The rows of a kernel that has dot() and l2sq_scaled() for one: included by such files, once each. */

static float l2sq(const float *a, const float *b, size_t n) { return l2sq_scaled(a, b, 1.0F, n); }

KERNEL_RACY static void dot_rows(const float *q, const float *rows, size_t nrows, size_t n, float *out)
{
	for (size_t r = 0; r < nrows; r++)
		out[r] = dot(q, rows + r * n, n);
}

KERNEL_RACY static void l2sq_rows(const float *q, const float *rows, const float *scale, size_t nrows, size_t n,
				  float *out)
{
	for (size_t r = 0; r < nrows; r++)
		out[r] = l2sq_scaled(q, rows + r * n, scale[r], n);
}
