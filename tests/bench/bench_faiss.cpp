// FAISS IndexFlatIP beside the daemon: rows of the same kind, one query at a time.
//   g++ -O2 bench_faiss.cpp -lfaiss -lopenblas -fopenmp -pthread        bench_faiss [rows [clients]]
// Each client is a thread that searches alone (no OpenMP inside), as a worker process would.
// Debian's libfaiss is built without AVX2: do not quote its figures as FAISS's best.
#include <faiss/IndexFlat.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

static const int dim = 1536, k = 10;

static void make_row(float *x, uint64_t &rng)
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

static double now()
{
	return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static void client(const faiss::IndexFlatIP &index, uint64_t rng, std::vector<double> &t)
{
	std::vector<float> x(dim), score(k);
	std::vector<faiss::Index::idx_t> id(k);
	omp_set_num_threads(1);
	for (double end = now() + 4; t.size() < 20 || now() < end;) {
		make_row(x.data(), rng);
		double start = now();
		index.search(1, x.data(), k, score.data(), id.data());
		t.push_back(now() - start);
	}
}

int main(int argc, char **argv)
{
	size_t rows = argc > 1 ? strtoul(argv[1], nullptr, 10) : 10000;
	size_t clients = argc > 2 ? strtoul(argv[2], nullptr, 10) : 1;
	uint64_t rng = 88172645463325252ull;
	omp_set_num_threads(1);
	faiss::IndexFlatIP index(dim);
	std::vector<float> x(dim);
	for (size_t i = 0; i < rows; i++) {
		make_row(x.data(), rng);
		index.add(1, x.data());
	}
	std::vector<std::vector<double>> times(clients);
	std::vector<std::thread> threads;
	double start = now();
	for (size_t i = 1; i < clients; i++)
		threads.emplace_back(client, std::cref(index), rng + i * 7919, std::ref(times[i]));
	client(index, rng, times[0]);
	for (auto &thread : threads)
		thread.join();
	double spent = now() - start;
	std::vector<double> t;
	for (auto &some : times)
		t.insert(t.end(), some.begin(), some.end());
	std::sort(t.begin(), t.end());
	double p50 = t[(t.size() - 1) / 2], p99 = t[(size_t)(0.99 * (double)(t.size() - 1))];
	printf("{\"rows\": %zu, \"clients\": %zu, \"searches\": %zu, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"per_s\": %.1f, \"gb_s\": %.1f}\n",
	       rows, clients, t.size(), p50 * 1e3, p99 * 1e3, (double)t.size() / spent, (double)rows * dim * 4.0 / p50 / 1e9);
	return 0;
}
