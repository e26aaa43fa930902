// FAISS IndexFlatIP beside bench_vectors.c: same rows, same queries, one thread, one query at a time.
//   g++ -O2 bench_faiss.cpp -lfaiss -lopenblas -fopenmp        bench_faiss [rows]
// Debian's libfaiss is built without AVX2: do not quote its figures as FAISS's best.
#include <faiss/IndexFlat.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

static const int dim = 1536, k = 10;
static uint64_t rng = 88172645463325252ull;

static void make_row(float *x)
{
	double sum = 0;
	for (int i = 0; i < dim; i++) {
		rng ^= rng << 13;
		rng ^= rng >> 7;
		rng ^= rng << 17;
		x[i] = (float)(rng >> 40) / (float)(1 << 23) - 1;
		sum += (double)x[i] * x[i];
	}
	for (int i = 0; i < dim; i++)
		x[i] = (float)(x[i] / std::sqrt(sum));
}

int main(int argc, char **argv)
{
	size_t rows = argc > 1 ? strtoul(argv[1], nullptr, 10) : 10000;
	omp_set_num_threads(1);
	faiss::IndexFlatIP index(dim);
	std::vector<float> x(dim), score(k);
	std::vector<faiss::Index::idx_t> id(k);
	for (size_t i = 0; i < rows; i++) {
		make_row(x.data());
		index.add(1, x.data());
	}
	std::vector<double> t;
	auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
	for (double end = now() + 4; t.size() < 20 || now() < end;) {
		make_row(x.data());
		double start = now();
		index.search(1, x.data(), k, score.data(), id.data());
		t.push_back(now() - start);
	}
	std::sort(t.begin(), t.end());
	double p50 = t[(t.size() - 1) / 2], p99 = t[(size_t)(0.99 * (t.size() - 1))];
	printf("{\"rows\": %zu, \"searches\": %zu, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"gb_s\": %.1f}\n", rows, t.size(),
	       p50 * 1e3, p99 * 1e3, rows * dim * 4.0 / p50 / 1e9);
	return 0;
}
